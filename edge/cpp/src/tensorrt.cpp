// TensorRT: the plan of a bundle with its plugin, run as edge/backends/_trt_run.py runs it: one context, stream,
// buffers and captured graph (copy in, run, copy out) per thread that calls at once.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>

#include "network.h"

namespace edge {
namespace {

constexpr const char* INPUT = "image";
constexpr std::size_t ALIGNMENT = 256;  // bytes, as cudaMalloc aligns

void check(cudaError_t code, const char* what) {
    if (code != cudaSuccess)
        throw Error("cuda", std::string(what) + " must succeed", cudaGetErrorString(code),
                    "a working NVIDIA driver and GPU", "Run python -m edge.doctor");
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
        return *last_ ? last_ : "a refusal without words";
    }

  private:
    std::mutex lock_;
    char last_[300] = "";
};

struct DeviceFree {
    void operator()(void* memory) const { cudaFree(memory); }
};
struct HostFree {
    void operator()(void* memory) const { cudaFreeHost(memory); }
};
struct StreamDestroy {
    void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
struct GraphDestroy {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Device = std::unique_ptr<void, DeviceFree>;
using Host = std::unique_ptr<void, HostFree>;
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDestroy>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, GraphDestroy>;

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

// An output of the engine: its name, where it lies in the arena, and values per image.
struct Result {
    std::string name;
    std::size_t offset = 0, width = 0;
    nvinfer1::DataType type{};
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
            const std::size_t bytes = batch * result.width * (result.type == nvinfer1::DataType::kINT64 ? 8 : 4);
            arena_bytes_ += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        }
        host_in_ = allocate_host(input_bytes_), host_out_ = allocate_host(arena_bytes_);
        device_in_ = allocate(input_bytes_), device_out_ = allocate(arena_bytes_);
        std::memset(host_in_.get(), 0, input_bytes_);
        require(context_->setTensorAddress(INPUT, device_in_.get()), "take its input");
        for (const Result& result : results_)
            require(
                context_->setTensorAddress(result.name.c_str(), static_cast<char*>(device_out_.get()) + result.offset),
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
        for (const Result& result : results_) {
            const void* from = static_cast<const char*>(host_out_.get()) + result.offset;
            if (result.name == "region_classes")
                copy_classes(from, result.type, outputs.region_classes);
            else if (std::vector<float>* to = floats(result.name, outputs))
                std::memcpy(to->data(), from, to->size() * sizeof(float));
        }
    }

    static std::vector<float>* floats(const std::string& name, Outputs& outputs) {
        return name == "scores"          ? &outputs.scores
               : name == "global_scores" ? &outputs.global_scores
               : name == "local_scores"  ? &outputs.local_scores
               : name == "regions"       ? &outputs.regions
                                         : nullptr;
    }

  private:
    static void copy_classes(const void* from, nvinfer1::DataType type, std::vector<std::int64_t>& to) {
        if (type == nvinfer1::DataType::kINT64) {
            std::memcpy(to.data(), from, to.size() * sizeof(std::int64_t));
        } else {
            std::copy_n(static_cast<const std::int32_t*>(from), to.size(), to.begin());
        }
    }

    void require(bool done, const char* what) {
        if (!done)
            throw Error("infer", std::string("the engine must ") + what, logger_.last(), "success",
                        "Rebuild the bundle here");
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

class TensorRt : public Network {
  public:
    explicit TensorRt(const Bundle& bundle) : bundle_(bundle) {
        check(cudaSetDevice(0), "cudaSetDevice");
        check_fit();
        const Bundle::Plan& plan = bundle.plan;
        // Before deserialising: the engine's plugin nodes are looked up there.
        if (!plan.plugin.empty() && !getPluginRegistry()->getCreator("RoiResize", "1", "edge"))
            getPluginRegistry()->loadLibrary((bundle.path / plan.plugin).c_str());
        const std::string data = read_file(bundle.path / plan.payload, plan.bytes, "load");
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(data.data(), data.size()));
        if (!engine_)
            throw Error("load", "tensorrt must accept the engine", logger_.last(), "an engine for this GPU and version",
                        bundle.rebuild());
        read_form();
    }

    Form form() const override { return form_; }

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
        const std::string& built = bundle_.plan.version;
        if (built != version && built.rfind(version + ".", 0) != 0)  // the module's version may have a fourth part
            throw Error("load", "the engine must be of the tensorrt version that runs it", version, built,
                        bundle_.rebuild());
        if (bundle_.plan.compute_capability != capability)
            throw Error("load", "the GPU must have the compute capability the engine was built for", capability,
                        bundle_.plan.compute_capability, bundle_.rebuild());
    }

    [[noreturn]] void refuse_form(const std::string& got) const {
        throw Error("load", "the engine must have the form its manifest describes", got,
                    "scores of " + std::to_string(bundle_.labels.size()) + " classes", bundle_.rebuild());
    }

    void read_form() {
        Outputs fields;
        for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
            const char* name = engine_->getIOTensorName(i);
            const nvinfer1::Dims shape = engine_->getTensorShape(name);
            const nvinfer1::DataType type = engine_->getTensorDataType(name);
            if (engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT) {
                if (std::string(name) != INPUT || type != nvinfer1::DataType::kFLOAT || shape.nbDims != 4 ||
                    shape.d[1] != 3 || shape.d[2] != bundle_.image.size || shape.d[3] != bundle_.image.size)
                    refuse_form("another input");
                continue;
            }
            const bool classes = std::string(name) == "region_classes", floats = Lane::floats(name, fields) != nullptr;
            const bool whole = type == nvinfer1::DataType::kINT64 || type == nvinfer1::DataType::kINT32;
            if ((classes && !whole) || (!classes && type != nvinfer1::DataType::kFLOAT) || shape.nbDims < 2 ||
                shape.d[1] < 1)
                refuse_form("another type or shape of " + std::string(name));
            const auto wide = static_cast<std::size_t>(shape.d[1]);
            Result result{name, 0, 1, type};
            for (int d = 1; d < shape.nbDims; ++d)
                result.width *= static_cast<std::size_t>(std::max<std::int64_t>(shape.d[d], 1));
            results_.push_back(result);
            if (!floats && !classes) continue;
            const bool regions = std::string(name) == "regions";
            if (regions || classes) {
                if ((form_.regions && form_.regions != wide) || result.width != wide * (regions ? 4 : 1))
                    refuse_form("another shape of " + std::string(name));
                form_.regions = wide;
            } else if (wide != bundle_.labels.size() || result.width != wide) {
                refuse_form(std::to_string(wide) + " " + name);
            }
            if (std::string(name) == "scores") form_.classes = wide;
            form_.global_scores |= std::string(name) == "global_scores";
            form_.local_scores |= std::string(name) == "local_scores";
        }
        if (!form_.classes) refuse_form("no scores");
    }

    std::unique_ptr<Lane> take(std::size_t batch) {
        const std::lock_guard<std::mutex> guard(lock_);
        auto& idle = idle_[batch];
        if (!idle.empty()) {
            std::unique_ptr<Lane> lane = std::move(idle.back());
            idle.pop_back();
            return lane;
        }
        const auto wanted = static_cast<int>(batch);
        const auto& profiles = bundle_.plan.profiles;
        const auto fits = [&](const std::array<int, 3>& each) { return each[0] <= wanted && wanted <= each[2]; };
        const auto found = std::find_if(profiles.begin(), profiles.end(), fits);
        if (found == profiles.end() || found - profiles.begin() >= engine_->getNbOptimizationProfiles())
            refuse_form("no profile for a batch of " + std::to_string(batch));
        return std::make_unique<Lane>(*engine_, static_cast<int>(found - profiles.begin()), batch,
                                      static_cast<std::size_t>(bundle_.image.size), results_, logger_);
    }

    const Bundle bundle_;
    Logger logger_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;  // must outlive the engine, and that the contexts
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::vector<Result> results_;
    Form form_;
    std::mutex lock_;
    std::map<std::size_t, std::vector<std::unique_ptr<Lane>>> idle_;
};

}  // namespace

std::unique_ptr<Network> open_tensorrt(const Bundle& bundle) { return std::make_unique<TensorRt>(bundle); }

}  // namespace edge
