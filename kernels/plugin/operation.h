// What both plugin interfaces and both operations share: attributes, errors. Compiles against TensorRT 8.5 to 11.
//
// An operation is a plain struct of int32_t and float members that knows no plugin interface:
//     kName, kAttributes      its name and its attributes, one for each member, in their order
//     accepts(dims, inputs)   whether the inputs' shapes fit; -1 is a size that is not known yet
//     expected(words)         the shapes that fit, for people
//     output_type             type of the output for these types of inputs; false for types it does not take
//     output_shape            shape of the output; false for ranks it does not take
//     supports                type and format of one tensor, given the first input, as TensorRT asks for them
//     launch                  the kernel on a stream; a cudaError_t, or -1 for shapes that do not fit
#pragma once

#include <NvInferRuntime.h>

#include <cstdarg>   // defines: va_list
#include <cstdio>    // defines: vsnprintf
#include <cstring>   // defines: strcmp, memcpy
#include <iterator>  // defines: size
#include <new>       // defines: nothrow

#if NV_TENSORRT_MAJOR < 10 && NV_TENSORRT_MINOR < 6
// TensorRT 8.5 hands out its logger in no such way; the class is 8.6's.
namespace nvinfer1 {
class ILoggerFinder {
  public:
    virtual ILogger* findLogger() = 0;

  protected:
    virtual ~ILoggerFinder() = default;
};
}  // namespace nvinfer1
#endif

namespace edge {

constexpr char kNamespace[] = "edge";
constexpr char kVersion[] = "1";
constexpr int kMaxInputs = 3;

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
    bool whole;  // int32, else float32

    nvinfer1::PluginField field(const void* value = nullptr) const {
        return {name, value, whole ? nvinfer1::PluginFieldType::kINT32 : nvinfer1::PluginFieldType::kFLOAT32, 1};
    }
};

// Value of an attribute, or nothing for a wrong type.
inline bool read_field(const nvinfer1::PluginField& field, double& value) {
    using Type = nvinfer1::PluginFieldType;
    if (field.length != 1 || field.data == nullptr) return false;
    switch (field.type) {
        case Type::kINT32: value = *static_cast<const int32_t*>(field.data); return true;
#if NV_TENSORRT_MAJOR >= 10
        case Type::kINT64: value = static_cast<double>(*static_cast<const int64_t*>(field.data)); return true;
#endif
        case Type::kFLOAT32: value = *static_cast<const float*>(field.data); return true;
        case Type::kFLOAT64: value = *static_cast<const double*>(field.data); return true;
        default: return false;
    }
}

// Value of an attribute; false, with the reason in the log, if it is missing, of a wrong type or out of range.
inline bool read_attribute(const char* operation, const Attribute& attribute,
                           const nvinfer1::PluginFieldCollection* given, double& value) {
    bool found = false;
    for (int i = 0; given != nullptr && i < given->nbFields; ++i) {
        if (std::strcmp(given->fields[i].name, attribute.name) != 0) continue;
        if (!read_field(given->fields[i], value)) {
            report("[plugin] %s.%s must be one number, got another type. Expected int32 or float32. Do export again.",
                   operation, attribute.name);
            return false;
        }
        found = true;
    }
    if (found && value >= attribute.least && value <= attribute.most &&
        (!attribute.whole || value == static_cast<int32_t>(value))) {
        return true;
    }
    if (found) {
        report("[plugin] %s.%s must be in range, got %g. Expected %g to %g. Do export again.", operation,
               attribute.name, value, attribute.least, attribute.most);
    } else {
        report("[plugin] %s.%s must be given, got nothing. Expected %g to %g. Do export again.", operation,
               attribute.name, attribute.least, attribute.most);
    }
    return false;
}

template <typename Operation>
constexpr int kAttributeCount = static_cast<int>(std::size(Operation::kAttributes));

constexpr size_t kMemberBytes = 4;  // int32_t and float alike

// A plugin of an interface from its attributes, nullptr if one of them is refused.
template <typename Operation, template <typename> class Plugin>
Plugin<Operation>* create(const nvinfer1::PluginFieldCollection* given) {
    static_assert(sizeof(Operation) == kMemberBytes * kAttributeCount<Operation>, "an attribute for each member");
    Operation made;
    for (int i = 0; i < kAttributeCount<Operation>; ++i) {
        const Attribute& attribute = Operation::kAttributes[i];
        double value = 0;
        if (!read_attribute(Operation::kName, attribute, given, value)) return nullptr;
        const auto whole = static_cast<int32_t>(value);
        const auto number = static_cast<float>(value);
        std::memcpy(reinterpret_cast<char*>(&made) + i * kMemberBytes,
                    attribute.whole ? static_cast<const void*>(&whole) : &number, kMemberBytes);
    }
    return new (std::nothrow) Plugin<Operation>(made);
}

// The attributes as fields: names and types only, or with the values of an operation.
template <typename Operation>
struct Fields {
    nvinfer1::PluginField fields[kAttributeCount<Operation>];
    nvinfer1::PluginFieldCollection collection;

    explicit Fields(const Operation* operation = nullptr) {
        const char* members = reinterpret_cast<const char*>(operation);
        for (int i = 0; i < kAttributeCount<Operation>; ++i)
            fields[i] = Operation::kAttributes[i].field(members ? members + i * kMemberBytes : nullptr);
        collection = {kAttributeCount<Operation>, fields};
    }
    Fields(const Fields&) = delete;
};

// Whether the builder's shapes fit; if not, the reason is in the log.
template <typename Operation>
bool configure(const Operation& operation, const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs) {
    nvinfer1::Dims dims[kMaxInputs] = {};
    for (int i = 0; i < inputs && i < kMaxInputs; ++i) dims[i] = in[i].desc.dims;
    if (operation.accepts(dims, inputs)) return true;
    char words[96];
    operation.expected(words, sizeof(words));
    report("[plugin] %s must get inputs of other shapes, got %d inputs. Expected %s. Do export again.",
           Operation::kName, inputs, words);
    return false;
}

}  // namespace edge
