// An operation as TensorRT 8.5 and 8.6 take it: IPluginV2DynamicExt, IPluginCreator.
#pragma once

#include "plugin/operation.h"  // defines: create, configure, Fields; says what an operation is

namespace edge {

template <typename Operation>
class Plugin final : public nvinfer1::IPluginV2DynamicExt {
  public:
    explicit Plugin(const Operation& made) : operation(made) {}

    nvinfer1::IPluginV2DynamicExt* clone() const noexcept override { return new (std::nothrow) Plugin(operation); }
    void destroy() noexcept override { delete this; }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}

    const char* getPluginType() const noexcept override { return Operation::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }
    // There is one namespace, under which an engine finds its creators again.
    void setPluginNamespace(const char*) noexcept override {}

    int32_t getNbOutputs() const noexcept override { return 1; }
    size_t getWorkspaceSize(const nvinfer1::PluginTensorDesc*, int32_t, const nvinfer1::PluginTensorDesc*,
                            int32_t) const noexcept override {
        return 0;
    }

    // Nothing can be refused here: shapes that do not fit are told in the log, and launching on them fails.
    void configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                         const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
        configure(operation, in, inputs);
    }
    // Nor here: wrong types find no format.
    nvinfer1::DataType getOutputDataType(int32_t, const nvinfer1::DataType* in,
                                         int32_t inputs) const noexcept override {
        nvinfer1::DataType out;
        operation.output_type(in, inputs, out);
        return out;
    }
    nvinfer1::DimsExprs getOutputDimensions(int32_t, const nvinfer1::DimsExprs* in, int32_t inputs,
                                            nvinfer1::IExprBuilder& expressions) noexcept override {
        nvinfer1::DimsExprs out{};
        if (!operation.output_shape(in, inputs, out, expressions)) out.nbDims = -1;  // TensorRT's sign of bad Dims
        return out;
    }
    bool supportsFormatCombination(int32_t position, const nvinfer1::PluginTensorDesc* tensors, int32_t inputs,
                                   int32_t) noexcept override {
        return operation.supports(position, inputs, tensors[position], tensors[0]);
    }
    int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                    const void* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept override {
        return operation.launch(in, out, inputs, outputs, stream);
    }

    // The attributes: an int32 or float32 each.
    size_t getSerializationSize() const noexcept override { return sizeof(Operation); }
    void serialize(void* buffer) const noexcept override { std::memcpy(buffer, &operation, sizeof(Operation)); }

  private:
    const Operation operation;
};

template <typename Operation>
class Creator final : public nvinfer1::IPluginCreator {
  public:
    // Both return nullptr, with the reason in the log, if an attribute is missing, of a wrong type or out of range.
    nvinfer1::IPluginV2DynamicExt* createPlugin(const char*,
                                                const nvinfer1::PluginFieldCollection* given) noexcept override {
        return create<Operation, Plugin>(given);
    }
    nvinfer1::IPluginV2DynamicExt* deserializePlugin(const char*, const void* bytes, size_t length) noexcept override {
        if (length != sizeof(Operation)) {
            report(
                "[plugin] %s must be serialised in %zu bytes, got %zu. Expected an engine of this version. Do build "
                "again.",
                Operation::kName, sizeof(Operation), length);
            return nullptr;
        }
        Operation stored;
        std::memcpy(&stored, bytes, sizeof(stored));
        const Fields<Operation> given(&stored);
        return create<Operation, Plugin>(&given.collection);
    }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &fields.collection; }
    const char* getPluginName() const noexcept override { return Operation::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }
    void setPluginNamespace(const char*) noexcept override {}

  private:
    Fields<Operation> fields;
};

using AnyCreator = nvinfer1::IPluginCreator;

}  // namespace edge
