// mcar_edge_bench: what an engine costs on this device, without Python; the latency part of python -m edge.bench.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>

#include "arguments.h"
#include "bundle.h"
#include "edge/engine.hpp"
#include "files.h"
#include "latency.h"
#include "machine.h"
#include "rebundle.h"

namespace edge::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr long DEFAULT_BATCH = 8, MAX_CALLS = 10'000'000;
constexpr std::uintmax_t MAX_IMAGES = std::uintmax_t{1} << 36;

// Images as the engine takes them, all after one another.
struct Photos {
    std::vector<std::uint8_t> bytes;
    std::size_t count = 0;
};

// As the images that engines are calibrated and judged on, in their statistics.
Photos noise(std::size_t count, const Bundle& bundle) {
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    Photos photos{std::vector<std::uint8_t>(count * bundle.image_bytes()), count};
    if (bundle.image.uint8) {
        for (std::uint8_t& each : photos.bytes)
            each = static_cast<std::uint8_t>(std::clamp(115.0f + 58.0f * normal(random), 0.0f, 255.0f));
        return photos;
    }
    std::vector<float> values(photos.bytes.size() / sizeof(float));
    for (float& each : values) each = normal(random);
    std::memcpy(photos.bytes.data(), values.data(), photos.bytes.size());
    return photos;
}

Photos read_photos(const fs::path& file, std::size_t bytes) {
    const std::string data = read_file(file, MAX_IMAGES);
    if (data.empty() || data.size() % bytes)
        throw Error("bench",
                    file.string() + " has " + std::to_string(data.size()) + " bytes, not images of " +
                        std::to_string(bytes) + " bytes each",
                    "Write them raw as the bundle takes them, (N, 3, S, S) float32 or (N, S, S, 3) uint8");
    return {std::vector<std::uint8_t>(data.begin(), data.end()), data.size() / bytes};
}

// The next so many images, in turn; they begin again after the last.
class Turns {
  public:
    Turns(const Photos& photos, std::size_t batch) : size_(photos.bytes.size() / photos.count), photos_(photos) {
        // One batch that goes over the end of the images at whatever place, in one piece.
        if (photos_.count % batch == 0) return;
        for (std::size_t i = 0; i < batch; ++i) {
            const std::size_t from = i % photos_.count * size_;
            photos_.bytes.insert(photos_.bytes.end(), photos.bytes.begin() + static_cast<std::ptrdiff_t>(from),
                                 photos.bytes.begin() + static_cast<std::ptrdiff_t>(from + size_));
        }
    }
    const std::uint8_t* next(std::size_t batch) {
        const std::uint8_t* found = photos_.bytes.data() + at_ * size_;
        at_ = (at_ + batch) % photos_.count;
        return found;
    }

  private:
    const std::size_t size_;
    Photos photos_;
    std::size_t at_ = 0;
};

// images: at a multiple of an image's size from the beginning of their memory, so that floats lie where floats may.
void infer(const Engine& engine, const std::uint8_t* images, std::size_t batch, Outputs& outputs) {
    engine.image().uint8 ? engine.infer(images, batch, outputs)
                         : engine.infer(reinterpret_cast<const float*>(images), batch, outputs);
}

double seconds_of(const std::function<void()>& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <typename Value>
void append(std::string& to, const std::vector<Value>& values) {
    to.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value));
}

// Outputs of all images as raw files, each of what the engine has.
void write_outputs(const Engine& engine, const Photos& photos, std::size_t batch, const fs::path& folder) {
    const std::size_t bytes = photos.bytes.size() / photos.count;
    std::string scores, global_scores, local_scores, regions, region_classes;
    Outputs outputs;
    for (std::size_t start = 0; start < photos.count; start += batch) {
        infer(engine, photos.bytes.data() + start * bytes, std::min(batch, photos.count - start), outputs);
        append(scores, outputs.scores), append(global_scores, outputs.global_scores);
        append(local_scores, outputs.local_scores), append(regions, outputs.regions);
        append(region_classes, outputs.region_classes);
    }
    std::error_code error;
    fs::create_directories(folder, error);
    const std::pair<const char*, const std::string&> files[] = {{"scores", scores},
                                                                {"global_scores", global_scores},
                                                                {"local_scores", local_scores},
                                                                {"regions", regions},
                                                                {"region_classes", region_classes}};
    for (const auto& [name, data] : files)
        if (!data.empty()) write_file(folder / (std::string(name) + ".bin"), data);
}

ordered_json text_or_null(const ordered_json& manifest, const char* name) {
    const auto found = manifest.find(name);
    return found != manifest.end() && found->is_string() ? *found : ordered_json();
}

// What the vendor's library told of the engine when it was built.
json layers_of(const json& engine) {
    const auto stages = engine.find("stages");
    if (stages == engine.end() || !stages->is_object()) return engine.value("layers", json());
    json layers;
    for (const auto& [name, facts] : stages->items())
        if (facts.is_object() && facts.contains("layers")) layers[name] = facts["layers"];
    return layers;
}

void bench(const Arguments& arguments) {
    const fs::path path = arguments[0];
    const auto iterations = arguments.number("--iterations", 1, MAX_CALLS);
    const auto warm_up = arguments.number("--warmup", 0, MAX_CALLS);
    const auto wanted = arguments.number("--batch", 1, MAX_BATCH);
    const auto result = arguments.text("--json"), file = arguments.text("--images"), to = arguments.text("--outputs");
    if (result) check_writable(*result);

    const json before_mb = memory_mb("VmRSS");
    const auto started = std::chrono::steady_clock::now();
    const Engine engine = Engine::load(path);
    const std::chrono::duration<double, std::milli> load_ms = std::chrono::steady_clock::now() - started;
    const Source source = read_source(path);
    const Bundle& bundle = source.bundle;
    const auto most = static_cast<long>(engine.max_batch());
    if (wanted && *wanted > most)
        throw Error("bench",
                    "--batch is " + std::to_string(*wanted) + ", and " + path.string() + " takes at most " +
                        std::to_string(most),
                    "Lower --batch, or build with one of " + std::to_string(*wanted));
    const auto batch = static_cast<std::size_t>(wanted.value_or(std::min(DEFAULT_BATCH, most)));
    const Photos photos = file ? read_photos(*file, bundle.image_bytes()) : noise(batch, bundle);

    Turns turns(photos, batch);
    Outputs outputs;
    const auto call = [&] { infer(engine, turns.next(batch), batch, outputs); };
    const double first_ms = seconds_of(call) * 1e3;
    const MachineState before = read_state();
    const Latency found = measure(call, iterations, warm_up);
    std::vector<std::string> reasons;
    const json disturbed = disturbance(before, read_state(), reasons);
    for (const std::string& reason : judge(found.seconds)) reasons.push_back(reason);
    if (to) write_outputs(engine, photos, batch, *to);

    const std::vector<double>& seconds = found.seconds;
    const double total = std::accumulate(seconds.begin(), seconds.end(), 0.0);
    const auto [low, high] = median_interval(seconds);
    const json percentiles = percentiles_ms(seconds);
    json samples = json::array();
    for (const double each : seconds) samples.push_back(std::round(each * 1e7) / 1e4);
    std::uint64_t bytes = 0;
    for (const auto& [name, listed] : bundle.files)
        if (name.rfind("engine.", 0) == 0) bytes += listed.bytes;
    const json now_mb = memory_mb("VmRSS");
    const bool known = now_mb.is_number() && before_mb.is_number();
    const ordered_json content{
        {"batch", batch},
        {"latency_ms", percentiles},
        {"throughput_images_per_s", static_cast<double>(batch * seconds.size()) / total},
        {"median_interval_ms", {low * 1e3, high * 1e3}},
        {"variation", variation(seconds)},
        {"samples_ms", samples},
        {"warm_up", found.warm_up},
        {"valid", reasons.empty()},
        {"reasons", reasons},
        {"disturbance", disturbed},
        {"bundle", path.string()},
        {"model", bundle.model},
        {"weights", text_or_null(source.manifest, "weights")},
        {"size", engine.image().size},
        {"backend", bundle.backend},
        {"precision", bundle.precision},
        {"float16", bundle.float16.empty() ? json() : json(bundle.float16)},
        {"load_ms", load_ms.count()},
        {"first_ms", first_ms},
        {"layers", layers_of(bundle.engine)},
        {"sweep", json::array()},
        {"machine", describe_machine()},
        {"energy", nullptr},
        {"stages_ms", json::object()},
        {"memory_mb",
         {{"peak_rss", memory_mb("VmHWM")},
          {"engine", known ? json(now_mb.get<double>() - before_mb.get<double>()) : json()},
          {"bundle", static_cast<double>(bytes) / (1 << 20)}}},
        {"accuracy", nullptr},
        {"regions", nullptr},
        {"sensitivity", nullptr},
        {"effort", nullptr},
        {"warnings", reasons},
    };
    const auto ms = [&](const char* name) { return percentiles[name].get<double>(); };
    std::printf("%s  batch %zu  p50 %.3f ms  p90 %.3f  p99 %.3f  mean %.3f  %.1f images/s  (%zu calls after %ld)\n",
                path.c_str(), batch, ms("p50"), ms("p90"), ms("p99"), ms("mean"),
                static_cast<double>(batch * seconds.size()) / total, seconds.size(), found.warm_up);
    for (const std::string& reason : reasons) std::printf("warning    %s\n", reason.c_str());
    if (result) write_file(*result, content.dump(1, ' ', true, json::error_handler_t::replace) + "\n");
}

}  // namespace
}  // namespace edge::tools

int main(int count, char** words) {
    using namespace edge::tools;
    const Arguments arguments(
        count, words, "mcar_edge_bench",
        "Measure an engine on this device: latency with a verdict, throughput, memory.", {"BUNDLE"},
        {{"--batch", "N", "batch size (default 8, or the largest that the bundle takes)"},
         {"--iterations", "N", "calls to count (default: for at least two seconds)"},
         {"--warmup", "N", "calls before (default: until the latency holds still)"},
         {"--json", "FILE", "also write the result as JSON, with the keys of edge.bench"},
         {"--images", "FILE", "raw images as the engine takes them, to use in turn (default: noise)"},
         {"--outputs", "DIR", "write what the engine gives for all images, raw, NAME.bin"}});
    return run([&] { bench(arguments); });
}
