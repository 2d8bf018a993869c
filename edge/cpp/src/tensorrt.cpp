// TensorRT: the plan of a bundle with its plugin, run as edge/backends/trt/run.py runs it: one context, stream,
// buffers and captured graph (copy in, run, copy out) per thread that calls at once.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

#include "runner.h"
#include "tensorrt_plan.h"

namespace edge {
namespace {

constexpr std::size_t ALIGNMENT = 256;  // bytes, as cudaMalloc aligns

void check(cudaError_t code, const char* what) {
    if (code != cudaSuccess)
        throw Error("cuda", std::string(what) + " failed: " + cudaGetErrorString(code), "Run python -m edge.doctor");
}

// Keeps the last error instead of printing it.
class Logger : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity > Severity::kERROR) return;
        const std::lock_guard<std::mutex> guard(lock_);
        std::strncpy(last_, message, sizeof last_ - 1);
        for (char& each : last_)
            if (each == '\n') each = ' ';
    }
    std::string last() {
        const std::lock_guard<std::mutex> guard(lock_);
        return *last_ ? last_ : "it gives no reason";
    }

  private:
    std::mutex lock_;
    char last_[300] = "";
};

template <auto release>
struct Release {
    template <typename T>
    void operator()(T* held) const {
        release(held);
    }
};
using Device = std::unique_ptr<void, Release<cudaFree>>;
using Host = std::unique_ptr<void, Release<cudaFreeHost>>;
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Release<cudaStreamDestroy>>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Release<cudaGraphExecDestroy>>;

Device allocate(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    return Device(memory);
}

Host allocate_host(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault), "cudaHostAlloc");
    return Host(memory);
}

// An output of the engine: where it lies in the arena, and bytes per image.
struct Result {
    const Field* field;
    bool four_bytes;
    std::size_t bytes = 0, offset = 0;
};

class Lane {
  public:
    Lane(nvinfer1::ICudaEngine& engine, int profile, std::size_t batch, std::size_t side, std::vector<Result> results,
         Logger& logger)
        : results_(std::move(results)), logger_(logger), input_bytes_(batch * 3 * side * side * sizeof(float)) {
        cudaStream_t stream = nullptr;
        // Non-blocking: the default stream of another library must not hold ours up.
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
        stream_.reset(stream);
        context_.reset(engine.createExecutionContext());
        require(context_ != nullptr, "hold its activations");
        require(context_->setOptimizationProfileAsync(profile, stream), "select the profile");
        const auto edge_length = static_cast<std::int64_t>(side);
        nvinfer1::Dims4 shape(static_cast<std::int64_t>(batch), 3, edge_length, edge_length);
        require(context_->setInputShape(INPUT, shape), "take the batch");
        for (Result& result : results_) {
            result.offset = arena_bytes_;
            arena_bytes_ += (batch * result.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        }
        host_in_ = allocate_host(input_bytes_), host_out_ = allocate_host(arena_bytes_);
        device_in_ = allocate(input_bytes_), device_out_ = allocate(arena_bytes_);
        std::memset(host_in_.get(), 0, input_bytes_);
        require(context_->setTensorAddress(INPUT, device_in_.get()), "take its input");
        for (const Result& result : results_)
            require(
                context_->setTensorAddress(result.field->name, static_cast<char*>(device_out_.get()) + result.offset),
                "take its outputs");
        capture();
    }

    void run(const float* images, std::size_t count, std::size_t row_bytes, Outputs& outputs) {
        std::memcpy(host_in_.get(), images, count * row_bytes);
        std::memset(static_cast<char*>(host_in_.get()) + count * row_bytes, 0, input_bytes_ - count * row_bytes);
        if (graph_) {
            check(cudaGraphLaunch(graph_.get(), stream_.get()), "cudaGraphLaunch");
        } else {
            enqueue();
        }
        check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
        for (const Result& result : results_)
            result.field->copy(static_cast<const char*>(host_out_.get()) + result.offset, result.four_bytes, outputs);
    }

  private:
    void require(bool done, const char* what) {
        if (!done)
            throw Error("infer", std::string("The engine cannot ") + what + ": " + logger_.last(),
                        "Rebuild the bundle here: python -m edge.build --force");
    }

    void enqueue() {
        cudaStream_t stream = stream_.get();
        check(cudaMemcpyAsync(device_in_.get(), host_in_.get(), input_bytes_, cudaMemcpyHostToDevice, stream),
              "cudaMemcpyAsync");
        require(context_->enqueueV3(stream), "run");
        check(cudaMemcpyAsync(host_out_.get(), device_out_.get(), arena_bytes_, cudaMemcpyDeviceToHost, stream),
              "cudaMemcpyAsync");
    }

    // Without a graph where the engine cannot be captured: slower, as right.
    void capture() {
        enqueue();  // once outside: the library allocates on its first call
        check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
        // Thread-local: another thread may allocate meanwhile.
        if (cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal) != cudaSuccess) return;
        bool captured = true;
        try {
            enqueue();
        } catch (const Error&) {
            captured = false;
        }
        cudaGraph_t graph = nullptr;
        captured &= cudaStreamEndCapture(stream_.get(), &graph) == cudaSuccess && graph;
        cudaGraphExec_t launchable = nullptr;
        if (captured && cudaGraphInstantiateWithFlags(&launchable, graph, 0) == cudaSuccess) graph_.reset(launchable);
        if (graph) cudaGraphDestroy(graph);
        cudaGetLastError();  // a failed capture leaves an error behind
    }

    std::vector<Result> results_;
    Logger& logger_;
    std::size_t input_bytes_, arena_bytes_ = 0;
    // The graph refers to the buffers, the context to the stream: destroyed in this order, last first.
    Stream stream_;
    Device device_in_, device_out_;
    Host host_in_, host_out_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Graph graph_;
};

class TensorRt : public Runner {
  public:
    TensorRt(const Bundle& bundle, const Contents& contents) : bundle_(bundle), plan_(bundle.engine) {
        check(cudaSetDevice(0), "cudaSetDevice");
        check_fit();
        const Content& payload = content_of(contents, plan_.payload, bundle);
        if (payload.bytes > plan_.bytes)
            throw Error("load",
                        "The plan has " + std::to_string(payload.bytes) + " bytes; its manifest says " +
                            std::to_string(plan_.bytes),
                        bundle.rebuild());
        // Before deserialising: the engine's plugin nodes are looked up there.
        if (!plan_.plugin.empty() && !getPluginRegistry()->getCreator("RoiResize", "1", "edge"))
            load_plugin(content_of(contents, plan_.plugin, bundle));
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(payload.data.get(), payload.bytes));
        if (!engine_) throw Error("load", "TensorRT refuses the engine: " + logger_.last(), bundle.rebuild());
        read_forms();
        for (const std::size_t batch : bundle.batches) profile(batch);
    }

    Forms forms() const override { return forms_; }

    void run(const float* images, std::size_t count, std::size_t batch, Outputs& outputs) override {
        check(cudaSetDevice(0), "cudaSetDevice");
        const auto side = static_cast<std::size_t>(bundle_.image.size);
        std::unique_ptr<Lane> lane = take(batch);
        lane->run(images, count, 3 * side * side * sizeof(float), outputs);
        const std::lock_guard<std::mutex> guard(lock_);
        idle_[batch].push_back(std::move(lane));
    }

  private:
    void check_fit() {
        int major = 0, minor = 0;
        check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
        check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "cudaDeviceGetAttribute");
        const std::string capability = std::to_string(major) + "." + std::to_string(minor);
        const int library = getInferLibVersion();
        const std::string version = std::to_string(library / 10000) + "." + std::to_string(library / 100 % 100) + "." +
                                    std::to_string(library % 100);
        const std::string& built = plan_.version;
        if (built != version && built.rfind(version + ".", 0) != 0)  // the module's version may have a fourth part
            throw Error("load", "The engine was built with tensorrt " + built + "; here is " + version,
                        bundle_.rebuild());
        if (plan_.compute_capability != capability)
            throw Error("load",
                        "The engine was built for compute capability " + plan_.compute_capability + "; this GPU has " +
                            capability,
                        bundle_.rebuild());
    }

    // The library is loaded by name, so the bytes that were checked get one nobody else can write to.
    void load_plugin(const Content& plugin) {
        const int file = memfd_create("edge-plugin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        std::size_t written = 0;
        while (file >= 0 && written < plugin.bytes) {
            const ssize_t count = write(file, plugin.data.get() + written, plugin.bytes - written);
            if (count <= 0) break;
            written += static_cast<std::size_t>(count);
        }
        const bool kept = file >= 0 && written == plugin.bytes &&
                          fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0;
        const std::string reason = kept ? "" : std::strerror(errno);
        // Once loaded it stays open: the loader knows a library by its name, which another file must not get.
        if (kept && getPluginRegistry()->loadLibrary(("/proc/self/fd/" + std::to_string(file)).c_str())) return;
        if (file >= 0) close(file);
        if (!kept) throw Error("load", "Cannot keep the bundle's plugin in memory: " + reason, "Close other programs");
        throw Error("load", "TensorRT refuses the bundle's plugin: " + logger_.last(), bundle_.rebuild());
    }

    void read_forms() {
        for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
            const char* name = engine_->getIOTensorName(i);
            const nvinfer1::Dims shape = engine_->getTensorShape(name);
            const nvinfer1::DataType type = engine_->getTensorDataType(name);
            const bool four_bytes = type != nvinfer1::DataType::kINT64;
            forms_[name] = {words(type), {shape.d, shape.d + std::max<std::int32_t>(shape.nbDims, 0)}};
            const Field* field = find_field(name);
            if (!field || engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT) continue;
            Result result{field, four_bytes, four_bytes ? 4u : 8u, 0};
            for (int axis = 1; axis < shape.nbDims; ++axis)
                result.bytes *= static_cast<std::size_t>(std::max<std::int64_t>(shape.d[axis], 1));
            results_.push_back(result);
        }
    }

    static std::string words(nvinfer1::DataType type) {
        switch (type) {
            case nvinfer1::DataType::kFLOAT: return "f32";
            case nvinfer1::DataType::kINT32: return "i32";
            case nvinfer1::DataType::kINT64: return "i64";
            default: return "another type";
        }
    }

    // The optimisation profile for one of the bundle's batches.
    int profile(std::size_t batch) const {
        const auto wanted = static_cast<int>(batch);
        const auto& profiles = plan_.profiles;
        const auto fits = [&](const std::array<int, 3>& each) { return each[0] <= wanted && wanted <= each[2]; };
        const auto found = std::find_if(profiles.begin(), profiles.end(), fits);
        if (found == profiles.end() || found - profiles.begin() >= engine_->getNbOptimizationProfiles())
            refuse_form(bundle_, "it has no profile for a batch of " + std::to_string(batch));
        return static_cast<int>(found - profiles.begin());
    }

    std::unique_ptr<Lane> take(std::size_t batch) {
        const std::lock_guard<std::mutex> guard(lock_);
        auto& idle = idle_[batch];
        if (!idle.empty()) {
            std::unique_ptr<Lane> lane = std::move(idle.back());
            idle.pop_back();
            return lane;
        }
        return std::make_unique<Lane>(*engine_, profile(batch), batch, static_cast<std::size_t>(bundle_.image.size),
                                      results_, logger_);
    }

    const Bundle bundle_;
    const TensorRtPlan plan_;
    Logger logger_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;  // must outlive the engine, and that the contexts
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::vector<Result> results_;
    Forms forms_;
    std::mutex lock_;
    std::map<std::size_t, std::vector<std::unique_ptr<Lane>>> idle_;
};

}  // namespace

Runners open_tensorrt(const Bundle& bundle, const Contents& contents) {
    return {std::make_unique<TensorRt>(bundle, contents), nullptr};
}

}  // namespace edge
