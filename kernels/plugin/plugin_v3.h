// An operation as TensorRT 10 and later takes it: IPluginV3, IPluginCreatorV3One.
#pragma once

#include "plugin/operation.h"  // defines: create, configure, Fields; says what an operation is

namespace edge {

template <typename Operation>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
  public:
    explicit Plugin(const Operation& made) : operation(made), fields(&operation) {
        size_t used = 0;
        for (const nvinfer1::PluginField& field : fields.fields) {
            double value = 0;
            read_field(field, value);
            used += std::snprintf(timing_id + used, sizeof(timing_id) - used, "%s=%.9g;", field.name, value);
        }
    }

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }
    nvinfer1::IPluginV3* clone() noexcept override { return new (std::nothrow) Plugin(operation); }

    const char* getPluginName() const noexcept override { return Operation::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    int32_t getNbOutputs() const noexcept override { return 1; }
    // Tells engines apart in the timing cache: same attributes, same speed.
    const char* getTimingCacheID() noexcept override { return timing_id; }

    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
        return configure(operation, in, inputs) ? 0 : -1;
    }
    int32_t getOutputDataTypes(nvinfer1::DataType* out, int32_t outputs, const nvinfer1::DataType* in,
                               int32_t inputs) const noexcept override {
        return outputs == 1 && operation.output_type(in, inputs, out[0]) ? 0 : -1;
    }
    int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs*, int32_t,
                            nvinfer1::DimsExprs* out, int32_t outputs,
                            nvinfer1::IExprBuilder& expressions) noexcept override {
        return outputs == 1 && operation.output_shape(in, inputs, out[0], expressions) ? 0 : -1;
    }
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                   int32_t) noexcept override {
        return operation.supports(position, inputs, tensors[position].desc, tensors[0].desc);
    }
    // Shapes come with every enqueue and nothing depends on them.
    int32_t onShapeChange(const nvinfer1::PluginTensorDesc*, int32_t, const nvinfer1::PluginTensorDesc*,
                          int32_t) noexcept override {
        return 0;
    }
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
    int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                    const void* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept override {
        return operation.launch(in, out, inputs, outputs, stream);
    }
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &fields.collection; }

  private:
    const Operation operation;
    Fields<Operation> fields;
    char timing_id[64];
};

template <typename Operation>
class Creator final : public nvinfer1::IPluginCreatorV3One {
  public:
    // nullptr, with the reason in the log, if an attribute is missing, of a wrong type or out of range.
    nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* given,
                                      nvinfer1::TensorRTPhase) noexcept override {
        return create<Operation, Plugin>(given);
    }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &fields.collection; }
    const char* getPluginName() const noexcept override { return Operation::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

  private:
    Fields<Operation> fields;
};

using AnyCreator = nvinfer1::IPluginCreatorInterface;

}  // namespace edge
