// What differs between TensorRT 8.5, 8.6, 10 and 11 for code that runs engines or builds them.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>

#include "edge/engine.hpp"

// 8.5.3 is 80503; newer versions' macros have another weight for each part.
#define EDGE_TENSORRT (NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH)

namespace edge::trt {

inline void check(cudaError_t code, const char* what) {
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
            if (each > 0 && each < ' ') each = ' ';
    }
    std::string last() {
        const std::lock_guard<std::mutex> guard(lock_);
        return *last_ ? last_ : "it gives no reason";
    }

  private:
    std::mutex lock_;
    char last_[300] = "";
};

// Of the library that was loaded, as 8.6.1.
inline std::string library_version() {
    const int number = getInferLibVersion();
    const int major = number < 10000 ? number / 1000 : number / 10000, rest = number % (number < 10000 ? 1000 : 10000);
    return std::to_string(major) + "." + std::to_string(rest / 100) + "." + std::to_string(rest % 100);
}

// Of one size in a Dims: 32 bits in version 8, 64 since.
using Extent = std::remove_reference_t<decltype(std::declval<nvinfer1::Dims&>().d[0])>;

// Bytes of a value of an input or output that we read or write: those of whole numbers are 8 from version 10 on.
inline std::size_t value_bytes(nvinfer1::DataType type) {
#if EDGE_TENSORRT >= 100000
    if (type == nvinfer1::DataType::kINT64) return 8;
#endif
    static_cast<void>(type);
    return 4;
}

inline const char* type_name(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT: return "f32";
        case nvinfer1::DataType::kUINT8: return "u8";
        case nvinfer1::DataType::kINT32: return "i32";
#if EDGE_TENSORRT >= 100000
        case nvinfer1::DataType::kINT64: return "i64";
#endif
        default: return "another type";
    }
}

// Whether contexts may use one profile at once: not in 8.5, and in 8.6 where the engine was built for that.
constexpr bool SHARES_PROFILES = EDGE_TENSORRT >= 80600;

inline nvinfer1::IExecutionContext* make_context(nvinfer1::ICudaEngine& engine) {
#if EDGE_TENSORRT >= 100000
    // Memory for the context's own profile; else each would take what the largest one needs, as in version 8.
    return engine.createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kON_PROFILE_CHANGE);
#else
    return engine.createExecutionContext();
#endif
}

// Whether this process has our plugin.
inline bool has_plugin() {
#if EDGE_TENSORRT >= 100000
    return getPluginRegistry()->getCreator("RoiResize", "1", "edge") != nullptr;
#else
    return getPluginRegistry()->getPluginCreator("RoiResize", "1", "edge") != nullptr;
#endif
}

// Loads a plugin library and registers what it holds; why it could not, else nothing. It stays loaded.
inline std::string load_plugin(const std::string& path, Logger& logger) {
#if EDGE_TENSORRT >= 100000
    if (!getPluginRegistry()->loadLibrary(path.c_str())) return logger.last();
#else
    // 8.5 has no loadLibrary, and the one of 8.6 asks for nothing more than this does.
    static_cast<void>(logger);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) return dlerror();
    using Register = void (*)(nvinfer1::IPluginRegistry*);
    const auto register_plugins = reinterpret_cast<Register>(dlsym(library, "edge_register_plugins"));
    if (!register_plugins) return "it has no edge_register_plugins and is for another version of TensorRT";
    register_plugins(getPluginRegistry());
#endif
    return has_plugin() ? "" : "it does not register edge::RoiResize 1";
}

}  // namespace edge::trt
