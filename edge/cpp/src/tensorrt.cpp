// TensorRT: the plans of a bundle with their plugin, run as edge/backends/trt/run.py runs them: every thread that calls
// at once has a lane of its own, and the second stage runs beside the lane that holds the images.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <optional>

#include "tensorrt_lane.h"

namespace edge {
namespace {

using trt::check;
using trt::Lane;
using trt::Loaded;
using trt::Tensor;

void check_fit(const Bundle& bundle, const TensorRtPlan& plan) {
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "cudaDeviceGetAttribute");
    const std::string capability = std::to_string(major) + "." + std::to_string(minor);
    const std::string version = trt::library_version();
    const std::string& built = plan.version;
    if (built != version && built.rfind(version + ".", 0) != 0)  // the module's version may have a fourth part
        throw Error("load", "The engine was built with tensorrt " + built + "; here is " + version, bundle.rebuild());
    if (plan.compute_capability != capability)
        throw Error(
            "load",
            "The engine was built for compute capability " + plan.compute_capability + "; this GPU has " + capability,
            bundle.rebuild());
}

// The library is loaded by name, so the bytes that were checked get one nobody else can write to.
void load_plugin(const Content& plugin, Loaded& loaded) {
    const int file = memfd_create("edge-plugin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    std::size_t written = 0;
    while (file >= 0 && written < plugin.bytes) {
        const ssize_t count = write(file, plugin.data.get() + written, plugin.bytes - written);
        if (count <= 0) break;
        written += static_cast<std::size_t>(count);
    }
    const bool kept = file >= 0 && written == plugin.bytes &&
                      fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0;
    const std::string reason =
        kept ? trt::load_plugin("/proc/self/fd/" + std::to_string(file), loaded.logger) : std::strerror(errno);
    // Once loaded it stays open: the loader knows a library by its name, which another file must not get.
    if (reason.empty()) return;
    if (file >= 0) close(file);
    if (!kept) throw Error("load", "Cannot keep the bundle's plugin in memory: " + reason, "Close other programs");
    throw Error("load", "TensorRT refuses the bundle's plugin: " + reason, loaded.bundle.rebuild());
}

void read_tensors(Loaded& loaded) {
    const nvinfer1::ICudaEngine& engine = *loaded.engine;
    for (int i = 0; i < engine.getNbIOTensors(); ++i) {
        const char* name = engine.getIOTensorName(i);
        const bool input = engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
        const nvinfer1::DataType type = engine.getTensorDataType(name);
        loaded.tensors.push_back({name, input, engine.getTensorShape(name), type, input ? nullptr : find_field(name)});
    }
}

// sizes: that its profiles must have; size_name: what they count.
std::shared_ptr<Loaded> load(const Bundle& bundle, const Contents& contents, const TensorRtPlan& plan,
                             const std::vector<std::size_t>& sizes, const char* size_name) {
    const auto loaded = std::make_shared<Loaded>(bundle, plan, size_name);
    const Content& payload = content_of(contents, plan.payload, bundle);
    if (payload.bytes > plan.bytes)
        throw Error(
            "load",
            "The plan has " + std::to_string(payload.bytes) + " bytes; its manifest says " + std::to_string(plan.bytes),
            bundle.rebuild());
    // Before deserialising: the engine's plugin nodes are looked up there.
    if (!plan.plugin.empty() && !trt::has_plugin()) load_plugin(content_of(contents, plan.plugin, bundle), *loaded);
    loaded->runtime.reset(nvinfer1::createInferRuntime(loaded->logger));
    if (loaded->runtime)
        loaded->engine.reset(loaded->runtime->deserializeCudaEngine(payload.data.get(), payload.bytes));
    if (!loaded->engine) throw Error("load", "TensorRT refuses the engine: " + loaded->logger.last(), bundle.rebuild());
    read_tensors(*loaded);
    for (const std::size_t size : sizes) loaded->profile(size);
    return loaded;
}

Forms forms_of(const Loaded& loaded) {
    Forms forms;
    for (const auto& [name, input, shape, type, field] : loaded.tensors)
        forms[name] = {trt::type_name(type), {shape.d, shape.d + std::max<std::int32_t>(shape.nbDims, 0)}};
    return forms;
}

class TensorRt : public Runner {
  public:
    explicit TensorRt(std::shared_ptr<Loaded> loaded) : loaded_(std::move(loaded)) {}

    Forms forms() const override { return forms_of(*loaded_); }

    void run(Images& images, Outputs& outputs) override {
        check(cudaSetDevice(0), "cudaSetDevice");
        images.held = take(images.batch);
        Lane& lane = static_cast<Lane&>(*images.held);
        lane.give(INPUT, images.values, images.count * loaded_->bundle.image_bytes());
        lane.run();
        for (const Tensor& tensor : loaded_->tensors)
            if (tensor.field) tensor.field->copy(lane.found(tensor.name), tensor.bytes() == 4, outputs);
    }

    void release(Images& images) override {
        const std::unique_lock<std::mutex> turn = std::move(static_cast<Lane&>(*images.held).turn);
        const std::lock_guard<std::mutex> guard(lock_);
        idle_[images.batch].push_back(std::move(images.held));
    }

  private:
    std::unique_ptr<Held> take(std::size_t batch) {
        std::unique_lock<std::mutex> turn(alone_, std::defer_lock);
        if (!trt::SHARES_PROFILES) turn.lock();
        std::unique_ptr<Held> held = idle(batch);
        if (!held) {
            const std::lock_guard<std::mutex> guard(loaded_->making);
            if (!trt::SHARES_PROFILES) idle_.clear();  // lanes of other batches, and those beside them
            if (!mapped_) mapped_ = quicker_mapped();
            held = std::make_unique<Lane>(loaded_, batch, *mapped_);
        }
        static_cast<Lane&>(*held).turn = std::move(turn);
        return held;
    }

    // A lane that waits, if there is one.
    std::unique_ptr<Held> idle(std::size_t batch) {
        const std::lock_guard<std::mutex> guard(lock_);
        auto& idle = idle_[batch];
        if (idle.empty()) return nullptr;
        std::unique_ptr<Held> lane = std::move(idle.back());
        idle.pop_back();
        return lane;
    }

    // Where CPU and GPU share their memory: whether reading images in place, or copying them once, costs less here.
    bool quicker_mapped() const {
        int shared = 0;
        check(cudaDeviceGetAttribute(&shared, cudaDevAttrIntegrated, 0), "cudaDeviceGetAttribute");
        if (!shared) return false;
        const std::size_t batch = loaded_->bundle.batches.front();
        const std::vector<std::uint8_t> images(batch * loaded_->bundle.image_bytes());
        std::vector<double> taken[2];
        for (int round = 0; round < 6; ++round) {  // interleaved: clocks change meanwhile
            Lane lane(loaded_, batch, round % 2 == 1);
            for (int call = 0; call < 10; ++call) {
                const auto start = std::chrono::steady_clock::now();
                lane.give(INPUT, images.data(), images.size());
                lane.run();
                const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
                if (call >= 3) taken[round % 2].push_back(seconds.count());
            }
        }
        for (auto& each : taken) std::nth_element(each.begin(), each.begin() + 10, each.end());
        return taken[1][10] < taken[0][10];
    }

    const std::shared_ptr<Loaded> loaded_;
    std::mutex alone_;            // of the one call at a time, where contexts share no profile
    std::optional<bool> mapped_;  // once known, under the lock of who makes a lane
    std::mutex lock_;
    std::map<std::size_t, std::vector<std::unique_ptr<Held>>> idle_;  // lanes, by batch
};

class TensorRtCloser : public Closer {
  public:
    explicit TensorRtCloser(std::shared_ptr<Loaded> loaded) : loaded_(std::move(loaded)) {}

    Forms forms() const override { return forms_of(*loaded_); }

    void run(const Images& images, const float* boxes, const std::int32_t* owner, std::size_t size,
             float* scores) override {
        check(cudaSetDevice(0), "cudaSetDevice");
        Lane& lane = static_cast<Lane&>(*images.held).beside(loaded_, size);
        lane.give(BOXES, boxes, size * 4 * sizeof(float));
        lane.give(OWNER, owner, size * sizeof(std::int32_t));
        lane.run();
        std::memcpy(scores, lane.found(REGION_SCORES), size * loaded_->bundle.labels.size() * sizeof(float));
    }

  private:
    const std::shared_ptr<Loaded> loaded_;
};

}  // namespace

Runners open_tensorrt(const Bundle& bundle, const Contents& contents) {
    check(cudaSetDevice(0), "cudaSetDevice");
    const TensorRtPlans plans = plans_of(bundle.engine);
    for (const auto& [stage, plan] : plans) check_fit(bundle, plan);
    const auto closer = plans.find(CLOSER);
    const TensorRtPlan& first = plans.at(closer == plans.end() ? "" : LOOK);
    Runners runners{std::make_unique<TensorRt>(load(bundle, contents, first, bundle.batches, "images")), nullptr};
    if (closer != plans.end())
        runners.closer =
            std::make_unique<TensorRtCloser>(load(bundle, contents, closer->second, bundle.sizes, "regions"));
    return runners;
}

}  // namespace edge
