// What the two TensorRT plugins share: IPluginV3 plumbing, attributes, errors. Compiles against TensorRT 10.0 to 11.
#pragma once

#include <NvInferRuntime.h>

#include <cstdarg>  // defines: va_list
#include <cstdio>   // defines: vsnprintf
#include <cstring>  // defines: strcmp
#include <new>      // defines: nothrow

namespace edge {

constexpr char kNamespace[] = "edge";
constexpr char kVersion[] = "1";

// Errors go to TensorRT's own logger, once it has told us where to find it.
inline nvinfer1::ILoggerFinder* logger_finder = nullptr;

inline void report(const char* format, ...) {
    char message[256];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    nvinfer1::ILogger* logger = logger_finder ? logger_finder->findLogger() : nullptr;
    if (logger) logger->log(nvinfer1::ILogger::Severity::kERROR, message);
}

// An attribute of the ONNX node, at the same time a field of the serialised engine.
struct Attribute {
    const char* name;
    double least, most;
    bool whole;     // int32, else float32
    bool required;  // else 0 stands for "not given"
};

// Value of an attribute, or nothing for a wrong type.
inline bool read_field(const nvinfer1::PluginField& field, double& value) {
    using Type = nvinfer1::PluginFieldType;
    if (field.length != 1 || field.data == nullptr) return false;
    switch (field.type) {
        case Type::kINT32: value = *static_cast<const int32_t*>(field.data); return true;
        case Type::kINT64: value = static_cast<double>(*static_cast<const int64_t*>(field.data)); return true;
        case Type::kFLOAT32: value = *static_cast<const float*>(field.data); return true;
        case Type::kFLOAT64: value = *static_cast<const double*>(field.data); return true;
        default: return false;
    }
}

// CRTP base. Derived has kName, kAttributes (two) and the methods that differ; attribute values are `size` and
// `number`.
template <typename Derived>
class Operation : public nvinfer1::IPluginV3,
                  public nvinfer1::IPluginV3OneCore,
                  public nvinfer1::IPluginV3OneBuild,
                  public nvinfer1::IPluginV3OneRuntime {
  public:
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }
    nvinfer1::IPluginV3* clone() noexcept override { return new (std::nothrow) Derived(size, number); }

    const char* getPluginName() const noexcept override { return Derived::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    int32_t getNbOutputs() const noexcept override { return 1; }
    // Tells engines apart in the timing cache: same attributes, same speed.
    const char* getTimingCacheID() noexcept override { return timing_id; }

    // Shapes come with every enqueue and nothing depends on them.
    int32_t onShapeChange(const nvinfer1::PluginTensorDesc*, int32_t, const nvinfer1::PluginTensorDesc*,
                          int32_t) noexcept override {
        return 0;
    }
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
        fields[0] = {Derived::kAttributes[0].name, &size, nvinfer1::PluginFieldType::kINT32, 1};
        fields[1] = {Derived::kAttributes[1].name, &number, nvinfer1::PluginFieldType::kFLOAT32, 1};
        collection = {2, fields};
        return &collection;
    }

  protected:
    Operation(int32_t size, float number) : size(size), number(number) {
        std::snprintf(timing_id, sizeof(timing_id), "%s=%d;%s=%.9g", Derived::kAttributes[0].name, size,
                      Derived::kAttributes[1].name, static_cast<double>(number));
    }

    const int32_t size;
    const float number;

  private:
    char timing_id[64];
    nvinfer1::PluginField fields[2];
    nvinfer1::PluginFieldCollection collection;
};

template <typename Plugin>
class Creator final : public nvinfer1::IPluginCreatorV3One {
  public:
    Creator() {
        for (int i = 0; i < 2; ++i) {
            const Attribute& attribute = Plugin::kAttributes[i];
            const auto type = attribute.whole ? nvinfer1::PluginFieldType::kINT32 : nvinfer1::PluginFieldType::kFLOAT32;
            fields[i] = {attribute.name, nullptr, type, 1};
        }
    }

    // nullptr, with the reason in the log, if an attribute is missing, of a wrong type or out of range.
    nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* given,
                                      nvinfer1::TensorRTPhase) noexcept override {
        double values[2];
        for (int i = 0; i < 2; ++i) {
            if (!read(Plugin::kAttributes[i], given, values[i])) return nullptr;
        }
        return new (std::nothrow) Plugin(static_cast<int32_t>(values[0]), static_cast<float>(values[1]));
    }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection; }
    const char* getPluginName() const noexcept override { return Plugin::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

  private:
    static bool read(const Attribute& attribute, const nvinfer1::PluginFieldCollection* given, double& value) {
        bool found = false;
        value = 0;
        for (int i = 0; given != nullptr && i < given->nbFields; ++i) {
            if (std::strcmp(given->fields[i].name, attribute.name) != 0) continue;
            if (!read_field(given->fields[i], value)) {
                report(
                    "[plugin] %s.%s must be one number, got another type. Expected int32 or float32. Do export again.",
                    Plugin::kName, attribute.name);
                return false;
            }
            found = true;
        }
        const bool absent = !attribute.required && value == 0;
        const bool fits = value >= attribute.least && value <= attribute.most &&
                          (!attribute.whole || value == static_cast<int32_t>(value));
        if (absent || (found && fits)) return true;
        if (found) {
            report("[plugin] %s.%s must be in range, got %g. Expected %g to %g. Do export again.", Plugin::kName,
                   attribute.name, value, attribute.least, attribute.most);
        } else {
            report("[plugin] %s.%s must be given, got nothing. Expected %g to %g. Do export again.", Plugin::kName,
                   attribute.name, attribute.least, attribute.most);
        }
        return false;
    }

    nvinfer1::PluginField fields[2];
    nvinfer1::PluginFieldCollection collection = {2, fields};
};

}  // namespace edge
