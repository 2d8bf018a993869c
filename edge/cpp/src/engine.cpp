#include "edge/engine.hpp"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <tuple>

#include "approximate.h"
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

void check_effort(double effort, bool two_stages, const char* stage) {
    if (!(effort >= 0 && effort <= 1))
        throw Error(stage, "The effort is " + std::to_string(effort),
                    "Use a value from 0 (no region) to 1 (every region)");
    if (!two_stages && effort != 1)
        throw Error(stage, "The effort is " + std::to_string(effort) + ", but this engine has no second stage",
                    "Leave it out, or set it to 1");
}

}  // namespace

struct Engine::State {
    Bundle bundle;
    double effort = 1;               // of calls that name none
    bool approximate = false;        // whether pixels may differ where that is sooner
    std::unique_ptr<Stages> stages;  // null once closed

    Image resized(const View& photo) const {
        return (approximate ? resize_approximately : resize)(photo, bundle.image.size, bundle.image.size);
    }

    Layout layout;
    pid_t process = getpid();
    // normalised[c][v]: the input's value of byte v in channel c.
    std::array<std::array<float, 256>, 3> normalised{};
    mutable std::shared_mutex closing;  // shared by calls under way, held alone by close

    // What a call may spend, its budget counted from now.
    Limits limits(const Spend& spend) const;

    void run(const void* images, std::size_t batch, const Limits& limits, Outputs& outputs, Looked& looked) const;

    Prediction prediction(const LookedOutputs& outputs, std::size_t index, const View& photo,
                          const std::vector<float>& thresholds) const;

    ~State() {
        // In a forked child the engine's threads are gone: waiting for them would hang, so it is left to the exit.
        if (process != getpid()) static_cast<void>(stages.release());
    }
};

Limits Engine::State::limits(const Spend& spend) const {
    const auto called = std::chrono::steady_clock::now();
    const bool two_stages = !bundle.sizes.empty();
    Limits made{spend.effort.value_or(effort), std::nullopt};
    check_effort(made.effort, two_stages, "infer");
    if (!spend.budget_ms) return made;
    if (!two_stages) throw Error("infer", "There is a budget, but this engine has no second stage", "Leave it out");
    if (!(*spend.budget_ms > 0 && *spend.budget_ms < 1e12))
        throw Error("infer", "The budget is " + std::to_string(*spend.budget_ms) + " ms",
                    "Use a positive number of milliseconds");
    made.deadline = called + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                 std::chrono::duration<double, std::milli>(*spend.budget_ms));
    return made;
}

void Engine::State::run(const void* images, std::size_t batch, const Limits& limits, Outputs& outputs,
                        Looked& looked) const {
    check_process("infer", process);
    const std::shared_lock<std::shared_mutex> open(closing);
    if (!stages) refuse_closed();
    if (!images) throw Error("infer", "There are no images", "Pass a pointer to them");
    const std::size_t most = bundle.batches.back();
    if (batch < 1 || batch > most)
        throw Error("infer",
                    "The batch has " + std::to_string(batch) + " images; the engine takes 1 to " + std::to_string(most),
                    "Split it, or build with a larger `batch`");
    stages->run(images, batch, limits, outputs, looked);
}

Prediction Engine::State::prediction(const LookedOutputs& outputs, std::size_t index, const View& photo,
                                     const std::vector<float>& thresholds) const {
    const std::vector<std::string>& names = bundle.labels;
    const float* scores = outputs.scores.data() + index * layout.classes;
    Prediction made;
    made.scores.assign(scores, scores + layout.classes);
    std::vector<std::size_t> order(layout.classes);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    for (const std::size_t c : order)
        if (scores[c] >= thresholds[c]) made.labels.push_back({names[c], scores[c]});
    const auto side = static_cast<float>(bundle.image.size);
    const float across = static_cast<float>(photo.width) / side, down = static_cast<float>(photo.height) / side;
    for (std::size_t k = index * layout.regions; k < (index + 1) * layout.regions; ++k) {
        const std::int64_t c = outputs.region_classes[k];
        if (c < 0 || static_cast<std::size_t>(c) >= layout.classes)
            throw Error("infer",
                        "The engine found a region of class " + std::to_string(c) + "; the bundle has " +
                            std::to_string(layout.classes) + " classes",
                        bundle.rebuild());
        const float* box = outputs.regions.data() + 4 * k;
        made.regions.push_back({{box[0] * across, box[1] * down, box[2] * across, box[3] * down},
                                names[static_cast<std::size_t>(c)],
                                scores[c],
                                outputs.regions_looked.empty() || outputs.regions_looked[k] != 0});
    }
    return made;
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Engine Engine::load(const std::filesystem::path& path) { return open(path, std::nullopt); }
Engine Engine::load(const std::filesystem::path& path, double effort) { return open(path, effort); }

Engine Engine::open(const std::filesystem::path& path, std::optional<double> effort) {
    pid_t none = 0;
    if (!owner.compare_exchange_strong(none, getpid())) check_process("load", owner);
    auto state = std::make_unique<State>();
    Contents contents;
    std::tie(state->bundle, contents) = read_bundle(path);
    state->stages = std::make_unique<Stages>(state->bundle, open_runners(state->bundle, contents));
    state->layout = state->stages->layout();
    state->effort = effort.value_or(state->bundle.effort);
    check_effort(state->effort, !state->bundle.sizes.empty(), "load");
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
    require_input(false);
    thread_local Looked looked;
    state_->run(images, batch, state_->limits({}), outputs, looked);
}

void Engine::infer(const float* images, std::size_t batch, const Spend& spend, LookedOutputs& outputs) const {
    require_input(false);
    state_->run(images, batch, state_->limits(spend), outputs, outputs.regions_looked);
}

Outputs Engine::infer(const std::uint8_t* images, std::size_t batch) const {
    Outputs outputs;
    infer(images, batch, outputs);
    return outputs;
}

void Engine::infer(const std::uint8_t* images, std::size_t batch, Outputs& outputs) const {
    require_input(true);
    thread_local Looked looked;
    state_->run(images, batch, state_->limits({}), outputs, looked);
}

void Engine::infer(const std::uint8_t* images, std::size_t batch, const Spend& spend, LookedOutputs& outputs) const {
    require_input(true);
    state_->run(images, batch, state_->limits(spend), outputs, outputs.regions_looked);
}

void Engine::require_input(bool uint8) const {
    if (!state_) refuse_closed();
    if (state_->bundle.image.uint8 == uint8) return;
    const std::string side = std::to_string(image().size);
    throw Error("infer",
                uint8 ? "The engine takes (B, 3, " + side + ", " + side + ") float32, not bytes"
                      : "The engine takes (B, " + side + ", " + side + ", 3) uint8, not floats",
                "Give it what it takes, or let predict do it");
}

void Engine::preprocess(const View& photo, std::uint8_t* output) const {
    const Image resized = state_->resized(photo);
    std::copy(resized.pixels.begin(), resized.pixels.end(), output);
}

void Engine::preprocess(const View& photo, float* output) const {
    const auto side = image().size;
    Image resized;
    View view = photo;
    if (photo.width != side || photo.height != side) {
        resized = state_->resized(photo);
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
    return predict(photos, score_threshold, Spend{});
}

std::vector<Prediction> Engine::predict(const std::vector<View>& photos, std::optional<float> score_threshold,
                                        const Spend& spend) const {
    return predict_sized(photos, photos, score_threshold, spend);
}

// sizes: of the photographs, in whose pixels the boxes are; what was decoded of them may be smaller.
std::vector<Prediction> Engine::predict_sized(const std::vector<View>& photos, const std::vector<View>& sizes,
                                              std::optional<float> score_threshold, const Spend& spend) const {
    if (!state_) refuse_closed();
    const std::size_t bytes = state_->bundle.image_bytes();
    const Limits limits = state_->limits(spend);
    std::vector<float> thresholds = state_->bundle.thresholds_at(limits.effort);
    if (score_threshold) std::fill(thresholds.begin(), thresholds.end(), *score_threshold);
    std::vector<Prediction> predictions;
    LookedOutputs outputs;
    std::vector<std::uint8_t> batch(std::min(photos.size(), max_batch()) *
                                    bytes);  // aligned for floats, as new memory is
    for (std::size_t start = 0; start < photos.size(); start += max_batch()) {
        const std::size_t count = std::min(max_batch(), photos.size() - start);
        for (std::size_t i = 0; i < count; ++i) {
            std::uint8_t* to = batch.data() + i * bytes;
            image().uint8 ? preprocess(photos[start + i], to)
                          : preprocess(photos[start + i], reinterpret_cast<float*>(to));
        }
        state_->run(batch.data(), count, limits, outputs, outputs.regions_looked);
        for (std::size_t i = 0; i < count; ++i)
            predictions.push_back(state_->prediction(outputs, i, sizes[start + i], thresholds));
    }
    return predictions;
}

std::vector<Prediction> Engine::predict_files(const std::vector<std::filesystem::path>& files,
                                              std::optional<float> score_threshold) const {
    return predict_files(files, score_threshold, Spend{});
}

std::vector<Prediction> Engine::predict_files(const std::vector<std::filesystem::path>& files,
                                              std::optional<float> score_threshold, const Spend& spend) const {
    if (!state_) refuse_closed();
    const auto called = std::chrono::steady_clock::now();
    state_->limits(spend);  // refuses, before anything is decoded
    Spend left = spend;
    std::vector<Prediction> predictions;
    for (std::size_t start = 0; start < files.size(); start += max_batch()) {
        std::vector<Photo> photos;
        std::vector<View> views, sizes;
        for (std::size_t i = start; i < std::min(files.size(), start + max_batch()); ++i)
            photos.push_back(decode_photo(files[i], state_->approximate ? image().size : 0));
        for (const Photo& photo : photos) {
            views.push_back(photo.image.view());
            sizes.push_back({nullptr, photo.width, photo.height, 0});
        }
        const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - called;
        // Once it is spent, the first stage alone runs.
        if (spend.budget_ms) left.budget_ms = std::max(*spend.budget_ms - spent.count(), 1e-6);
        for (Prediction& each : predict_sized(views, sizes, score_threshold, left))
            predictions.push_back(std::move(each));
    }
    return predictions;
}

void Engine::approximate_pixels(bool on) { state_->approximate = on; }
bool Engine::approximate_pixels() const { return state_->approximate; }
const ImageSpec& Engine::image() const { return state_->bundle.image; }
const std::vector<std::string>& Engine::labels() const { return state_->bundle.labels; }
const std::string& Engine::model() const { return state_->bundle.model; }
const std::string& Engine::backend() const { return state_->bundle.backend; }
double Engine::effort() const { return state_->effort; }
std::size_t Engine::regions() const { return state_->layout.regions; }
std::size_t Engine::max_batch() const { return state_->bundle.batches.back(); }

void Engine::close() {
    if (!state_ || state_->process != getpid()) return;
    const std::unique_lock<std::shared_mutex> alone(state_->closing);
    state_->stages.reset();
}

}  // namespace edge
