#include "edge/engine.hpp"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <tuple>

#include "stages.h"
#include "tensorrt_plan.h"

namespace edge {
namespace {

// The process that loaded an engine first. The threads of a vendor library do not survive a fork: what a child would
// do with an engine of its parent's, or with a library its parent has started, may hang.
std::atomic<pid_t> owner{0};

void check_process(const char* stage, pid_t loaded_in) {
    if (loaded_in == getpid()) return;
    throw Error(stage,
                "Process " + std::to_string(getpid()) + " was forked from process " + std::to_string(loaded_in) +
                    " after that had loaded an engine, and may use none",
                "Fork first and load in each child, or start new programs");
}

[[noreturn]] void refuse_closed() { throw Error("infer", "The engine is closed", "Load it again"); }

Runners open_runners(const Bundle& bundle, const Contents& contents) {
    refuse_unbuilt(bundle.engine);
    struct utsname machine{};
    uname(&machine);
    if (!bundle.architecture.empty() && bundle.architecture != machine.machine)
        throw Error("load",
                    "The engine was built for " + bundle.architecture + "; this processor is " + machine.machine,
                    bundle.rebuild());
    std::string here;
    for (const auto& [name, backend] : backends()) {
        if (!backend.open) continue;
        if (name == bundle.backend) return backend.open(bundle, contents);
        here += (here.empty() ? "" : " or ") + name;
    }
    throw Error("load", "The engine was built for " + bundle.backend.substr(0, 40) + "; this library runs " + here,
                "Build the bundle for that, or the library with MCAR_EDGE_BACKENDS");
}

}  // namespace

struct Engine::State {
    Bundle bundle;
    std::unique_ptr<Stages> stages;  // null once closed
    Layout layout;
    pid_t process = getpid();
    // normalised[c][v]: the input's value of byte v in channel c.
    std::array<std::array<float, 256>, 3> normalised{};
    mutable std::shared_mutex closing;  // shared by calls under way, held alone by close

    ~State() {
        // In a forked child the engine's threads are gone: waiting for them would hang, so it is left to the exit.
        if (process != getpid()) static_cast<void>(stages.release());
    }
};

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Engine Engine::load(const std::filesystem::path& path) {
    pid_t none = 0;
    if (!owner.compare_exchange_strong(none, getpid())) check_process("load", owner);
    auto state = std::make_unique<State>();
    Contents contents;
    std::tie(state->bundle, contents) = read_bundle(path);
    state->stages = std::make_unique<Stages>(state->bundle, open_runners(state->bundle, contents));
    state->layout = state->stages->layout();
    const ImageSpec& image = state->bundle.image;
    for (std::size_t channel = 0; channel < 3; ++channel)
        for (std::size_t value = 0; value < 256; ++value)
            state->normalised[channel][value] =
                (static_cast<float>(value) / 255.0f - image.mean[channel]) / image.std[channel];
    return Engine(std::move(state));
}

Outputs Engine::infer(const float* images, std::size_t batch) const {
    Outputs outputs;
    infer(images, batch, outputs);
    return outputs;
}

void Engine::infer(const float* images, std::size_t batch, Outputs& outputs) const {
    if (!state_) refuse_closed();
    check_process("infer", state_->process);
    const std::shared_lock<std::shared_mutex> open(state_->closing);
    if (!state_->stages) refuse_closed();
    if (!images) throw Error("infer", "There are no images", "Pass a pointer to them");
    if (batch < 1 || batch > max_batch())
        throw Error(
            "infer",
            "The batch has " + std::to_string(batch) + " images; the engine takes 1 to " + std::to_string(max_batch()),
            "Split it, or build with a larger `batch`");
    state_->stages->run(images, batch, outputs);
}

void Engine::preprocess(const View& photo, float* output) const {
    const auto side = image().size;
    Image resized;
    View view = photo;
    if (photo.width != side || photo.height != side) {
        resized = resize(photo, side, side);
        view = resized.view();
    } else if (!photo.pixels || photo.stride < static_cast<std::size_t>(photo.width) * 3) {
        resize(photo, side, side);  // refuses it
    }
    const std::size_t pixels = static_cast<std::size_t>(side) * static_cast<std::size_t>(side);
    for (std::size_t y = 0; y < static_cast<std::size_t>(side); ++y) {
        const std::uint8_t* row = view.pixels + y * view.stride;
        float* to = output + y * static_cast<std::size_t>(side);
        for (std::size_t x = 0; x < static_cast<std::size_t>(side); ++x)
            for (std::size_t channel = 0; channel < 3; ++channel)
                to[channel * pixels + x] = state_->normalised[channel][row[3 * x + channel]];
    }
}

std::vector<Prediction> Engine::predict(const std::vector<View>& photos, std::optional<float> score_threshold) const {
    if (!state_) refuse_closed();
    const std::size_t classes = state_->layout.classes, regions = state_->layout.regions;
    const auto side = static_cast<std::size_t>(image().size), pixels = 3 * side * side;
    std::vector<Prediction> predictions;
    Outputs outputs;
    std::vector<float> batch(std::min(photos.size(), max_batch()) * pixels);
    for (std::size_t start = 0; start < photos.size(); start += max_batch()) {
        const std::size_t count = std::min(max_batch(), photos.size() - start);
        for (std::size_t i = 0; i < count; ++i) preprocess(photos[start + i], batch.data() + i * pixels);
        infer(batch.data(), count, outputs);
        for (std::size_t i = 0; i < count; ++i) {
            const float* scores = outputs.scores.data() + i * classes;
            Prediction& made = predictions.emplace_back();
            made.scores.assign(scores, scores + classes);
            std::vector<std::size_t> order(classes);
            std::iota(order.begin(), order.end(), std::size_t{0});
            std::stable_sort(order.begin(), order.end(),
                             [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
            for (const std::size_t c : order)
                if (scores[c] >= score_threshold.value_or(state_->bundle.thresholds[c]))
                    made.labels.push_back({labels()[c], scores[c]});
            const float across = static_cast<float>(photos[start + i].width) / static_cast<float>(side);
            const float down = static_cast<float>(photos[start + i].height) / static_cast<float>(side);
            for (std::size_t k = i * regions; k < (i + 1) * regions; ++k) {
                const std::int64_t c = outputs.region_classes[k];
                if (c < 0 || static_cast<std::size_t>(c) >= classes)
                    throw Error("infer",
                                "The engine found a region of class " + std::to_string(c) + "; the bundle has " +
                                    std::to_string(classes) + " classes",
                                state_->bundle.rebuild());
                const float* box = outputs.regions.data() + 4 * k;
                made.regions.push_back({{box[0] * across, box[1] * down, box[2] * across, box[3] * down},
                                        labels()[static_cast<std::size_t>(c)],
                                        scores[c]});
            }
        }
    }
    return predictions;
}

std::vector<Prediction> Engine::predict_files(const std::vector<std::filesystem::path>& files,
                                              std::optional<float> score_threshold) const {
    std::vector<Prediction> predictions;
    for (std::size_t start = 0; start < files.size(); start += max_batch()) {
        std::vector<Image> photos;
        std::vector<View> views;
        for (std::size_t i = start; i < std::min(files.size(), start + max_batch()); ++i)
            photos.push_back(decode(files[i]));
        for (const Image& photo : photos) views.push_back(photo.view());
        for (Prediction& each : predict(views, score_threshold)) predictions.push_back(std::move(each));
    }
    return predictions;
}

const ImageSpec& Engine::image() const { return state_->bundle.image; }
const std::vector<std::string>& Engine::labels() const { return state_->bundle.labels; }
const std::string& Engine::model() const { return state_->bundle.model; }
const std::string& Engine::backend() const { return state_->bundle.backend; }
std::size_t Engine::regions() const { return state_->layout.regions; }
std::size_t Engine::max_batch() const { return state_->bundle.batches.back(); }

void Engine::close() {
    if (!state_ || state_->process != getpid()) return;
    const std::unique_lock<std::shared_mutex> alone(state_->closing);
    state_->stages.reset();
}

}  // namespace edge
