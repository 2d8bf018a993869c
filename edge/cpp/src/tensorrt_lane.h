// A plan of TensorRT that has been loaded, and what one call needs to run it; as edge/backends/trt/lane.py.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "runner.h"
#include "tensorrt_plan.h"
#include "tensorrt_version.h"

namespace edge::trt {

constexpr std::size_t ALIGNMENT = 256;  // bytes, as cudaMalloc aligns

// An input or output of an engine.
struct Tensor {
    const char* name;  // the engine's
    bool input;
    nvinfer1::Dims shape;  // the first size is open: of images, or of regions
    nvinfer1::DataType type;
    const Field* field;  // that an output fills; null for others

    // Of a value; other types are refused.
    std::size_t bytes() const { return value_bytes(type); }

    std::size_t row_bytes() const {
        std::size_t row = bytes();
        for (int axis = 1; axis < shape.nbDims; ++axis)
            row *= static_cast<std::size_t>(std::max<std::int64_t>(shape.d[axis], 1));
        return row;
    }
};

// A plan that has been loaded. Its contexts keep it: they must not outlive the engine.
struct Loaded {
    // size_name: what its profiles count.
    Loaded(const Bundle& bundle_, TensorRtPlan plan_, const char* size_name_)
        : bundle(bundle_), plan(std::move(plan_)), size_name(size_name_) {}

    const Bundle bundle;
    const TensorRtPlan plan;
    const char* const size_name;
    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime;  // must outlive the engine
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    std::vector<Tensor> tensors;
    std::mutex making;  // of a lane

    // The optimisation profile for one of the bundle's sizes.
    int profile(std::size_t size) const {
        const auto wanted = static_cast<int>(size);
        const auto fits = [&](const std::array<int, 3>& each) { return each[0] <= wanted && wanted <= each[2]; };
        const auto found = std::find_if(plan.profiles.begin(), plan.profiles.end(), fits);
        const auto index = found - plan.profiles.begin();
        if (found == plan.profiles.end() || index >= engine->getNbOptimizationProfiles())
            refuse_form(bundle, "it has no profile for " + std::to_string(size) + " " + size_name);
        return static_cast<int>(index);
    }

    void require(cudaError_t code, const char* what) {
        if (code == cudaSuccess) return;
        throw Error("cuda",
                    std::string(what) + " failed: " + cudaGetErrorString(code) + "; TensorRT said: " + logger.last(),
                    "Run python -m edge.doctor");
    }

    void require(bool done, const char* what) {
        if (!done)
            throw Error("infer", std::string("The engine failed to ") + what + ": " + logger.last(),
                        "Rebuild the bundle here: python -m edge.build --force");
    }
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

// Arrays side by side in one buffer of the host and one of the GPU, so that one copy moves them all; or in one that
// both read and write in place.
class Arena {
  public:
    explicit Arena(bool mapped) : mapped_(mapped) {}

    void add(const char* name, std::size_t bytes) {
        places_[name] = {bytes_, bytes};
        bytes_ += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }

    // Once all are added. The host's are zeros.
    void allocate() {
        void* memory = nullptr;
        check(cudaHostAlloc(&memory, bytes_, mapped_ ? cudaHostAllocMapped : cudaHostAllocDefault), "cudaHostAlloc");
        host_.reset(memory);
        std::memset(memory, 0, bytes_);
        if (mapped_) {
            check(cudaHostGetDevicePointer(&there_, memory, 0), "cudaHostGetDevicePointer");
            return;
        }
        check(cudaMalloc(&there_, bytes_), "cudaMalloc");
        device_.reset(there_);
    }

    char* host(const char* name) const { return static_cast<char*>(host_.get()) + place(name).first; }
    char* device(const char* name) const { return static_cast<char*>(there_) + place(name).first; }
    std::size_t bytes(const char* name) const { return place(name).second; }

    void send(cudaStream_t stream) const {
        if (mapped_) return;
        check(cudaMemcpyAsync(there_, host_.get(), bytes_, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
    }
    void fetch(cudaStream_t stream) const {
        if (mapped_) return;
        check(cudaMemcpyAsync(host_.get(), there_, bytes_, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
    }

  private:
    using Place = std::pair<std::size_t, std::size_t>;  // where it begins, and its bytes

    // Of one that was added; makes no string.
    const Place& place(const char* name) const { return places_.find(name)->second; }

    std::map<std::string, Place, std::less<>> places_;
    const bool mapped_;
    std::size_t bytes_ = 0;
    Host host_;
    Device device_;          // null where the host's memory is used in place
    void* there_ = nullptr;  // where the GPU finds them
};

// One context with its stream, buffers and captured graph (copy in, run, copy out). A lane holds the images of one call
// on the GPU; a lane beside it reads them there, on the same stream, and copies only its other inputs.
class Lane : public Held {
  public:
    // size: of its images; of a lane beside the one that holds those, of its regions. mapped: the GPU reads and writes
    // the host's memory in place.
    Lane(std::shared_ptr<Loaded> loaded, std::size_t size, bool mapped, const Lane* images = nullptr)
        : loaded_(std::move(loaded)), batch_(images ? images->batch_ : size), mapped_(mapped) {
        if (images) {
            stream_ = images->stream_;
        } else {
            // Non-blocking: the default stream of another library must not hold ours up.
            check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
            own_stream_.reset(stream_);
        }
        context_.reset(make_context(*loaded_->engine));
        loaded_->require(context_ != nullptr, "hold its activations");
        loaded_->require(context_->setOptimizationProfileAsync(loaded_->profile(size), stream_), "select the profile");
        const auto elsewhere = [&](const Tensor& tensor) { return images && std::strcmp(tensor.name, INPUT) == 0; };
        for (const Tensor& tensor : loaded_->tensors) {
            const std::size_t rows = elsewhere(tensor) ? batch_ : size;
            if (!elsewhere(tensor)) (tensor.input ? in_ : out_).add(tensor.name, rows * tensor.row_bytes());
            if (!tensor.input) continue;
            nvinfer1::Dims shape = tensor.shape;
            shape.d[0] = static_cast<Extent>(rows);
            loaded_->require(context_->setInputShape(tensor.name, shape), "take its size");
        }
        in_.allocate(), out_.allocate();
        for (const Tensor& tensor : loaded_->tensors) {
            const Arena& arena = elsewhere(tensor) ? images->in_ : tensor.input ? in_ : out_;
            loaded_->require(context_->setTensorAddress(tensor.name, arena.device(tensor.name)), "take its buffers");
        }
        capture();
    }

    // Copies values to an input; what is left of it becomes zeros.
    void give(const char* name, const void* values, std::size_t bytes) {
        std::memcpy(in_.host(name), values, bytes);
        std::memset(in_.host(name) + bytes, 0, in_.bytes(name) - bytes);
    }

    void run() {
        if (graph_) {
            loaded_->require(cudaGraphLaunch(graph_.get(), stream_), "cudaGraphLaunch");
        } else {
            enqueue();
        }
        loaded_->require(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    }

    // Held while a call has this lane, where only one may live at a time.
    std::unique_lock<std::mutex> turn;

    // An output of the last run.
    const char* found(const char* name) const { return out_.host(name); }

    // The lane for so many regions beside this one; they end with it.
    Lane& beside(const std::shared_ptr<Loaded>& closer, std::size_t regions) {
        std::unique_ptr<Lane>& lane = beside_[regions];
        if (!lane) {
            const std::lock_guard<std::mutex> guard(closer->making);
            lane = std::make_unique<Lane>(closer, regions, mapped_, this);
        }
        return *lane;
    }

  private:
    void enqueue() {
        in_.send(stream_);
        loaded_->require(context_->enqueueV3(stream_), "run");
        out_.fetch(stream_);
    }

    // Without a graph where the engine cannot be captured: slower, as right.
    void capture() {
        enqueue();  // once outside: the library allocates on its first call
        loaded_->require(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
        // Thread-local: another thread may allocate meanwhile.
        if (cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return;
        bool captured = true;
        try {
            enqueue();
        } catch (const Error&) {
            captured = false;
        }
        cudaGraph_t graph = nullptr;
        captured &= cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph;
        cudaGraphExec_t launchable = nullptr;
        if (captured && cudaGraphInstantiateWithFlags(&launchable, graph, 0) == cudaSuccess) graph_.reset(launchable);
        if (graph) cudaGraphDestroy(graph);
        cudaGetLastError();  // a failed capture leaves an error behind
    }

    const std::shared_ptr<Loaded> loaded_;
    const std::size_t batch_;
    const bool mapped_;
    cudaStream_t stream_ = nullptr;
    // The graph refers to the buffers, the context to the stream: destroyed in this order, last first.
    Stream own_stream_;  // null beside another lane
    Arena in_{mapped_}, out_{mapped_};
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Graph graph_;
    std::map<std::size_t, std::unique_ptr<Lane>> beside_;
};

}  // namespace edge::trt
