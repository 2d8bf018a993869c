// TensorRT plugin edge::RoiResize, version 1: image (B, 3, H, W) fp32 or fp16, boxes (B, K, 4) fp32 -> (B * K, 3, size,
// size); or boxes (R, 4) and a third input owner (R) int32, whose image -> (R, 3, size, size). The output has the
// image's type, or int8 with step `scale` if that attribute is given.
#pragma once

#include "launch.h"            // defines: edge_roi_resize, EdgeFormat
#include "plugin/operation.h"  // defines: Operation, Attribute, report

namespace edge {

class RoiResizePlugin final : public Operation<RoiResizePlugin> {
  public:
    static constexpr char kName[] = "RoiResize";
    static constexpr Attribute kAttributes[2] = {{"size", 1, 4096, true, true}, {"scale", 1e-12, 1e12, false, false}};

    RoiResizePlugin(int32_t size, float scale) : Operation(size, scale) {}

    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
        if (inputs == 2 || inputs == 3) {
            const nvinfer1::Dims &image = in[0].desc.dims, &boxes = in[1].desc.dims;
            const int rank = rank_of_boxes(inputs);
            const bool fits = image.nbDims == 4 && image.d[1] == 3 && boxes.nbDims == rank && boxes.d[rank - 1] == 4;
            if (fits && (inputs == 2 || in[2].desc.dims.nbDims == 1)) return 0;
        }
        report(
            "[plugin] RoiResize must get an image and boxes, got %d inputs of other shapes. Expected (B, 3, H, W) and "
            "(B, K, 4), or (R, 4) and owner (R). Do export again.",
            inputs);
        return -1;
    }
    int32_t getOutputDataTypes(nvinfer1::DataType* out, int32_t outputs, const nvinfer1::DataType* in,
                               int32_t inputs) const noexcept override {
        if (inputs < 2 || inputs > 3 || outputs != 1 || in[1] != nvinfer1::DataType::kFLOAT) return -1;
        if (inputs == 3 && in[2] != nvinfer1::DataType::kINT32) return -1;
        if (in[0] != nvinfer1::DataType::kFLOAT && in[0] != nvinfer1::DataType::kHALF) return -1;
        out[0] = quantised() ? nvinfer1::DataType::kINT8 : in[0];
        return 0;
    }
    int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs*, int32_t,
                            nvinfer1::DimsExprs* out, int32_t outputs,
                            nvinfer1::IExprBuilder& expressions) noexcept override {
        if (inputs < 2 || inputs > 3 || outputs != 1 || in[0].nbDims != 4) return -1;
        if (in[1].nbDims != rank_of_boxes(inputs)) return -1;
        out[0].nbDims = 4;
        out[0].d[0] = inputs == 3
                          ? in[1].d[0]
                          : expressions.operation(nvinfer1::DimensionOperation::kPROD, *in[1].d[0], *in[1].d[1]);
        out[0].d[1] = in[0].d[1];
        out[0].d[2] = expressions.constant(size);
        out[0].d[3] = expressions.constant(size);
        return 0;
    }
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                   int32_t) noexcept override {
        const nvinfer1::PluginTensorDesc& tensor = tensors[position].desc;
        const bool linear = tensor.format == nvinfer1::TensorFormat::kLINEAR;
        if (position == inputs) {
            // Widening fp16 pixels to fp32 would only cost bandwidth.
            const bool widens = tensor.type == nvinfer1::DataType::kFLOAT && tensors[0].desc.type != tensor.type;
            return !widens && quantised() == (tensor.type == nvinfer1::DataType::kINT8) && format_of(tensor) >= 0;
        }
        switch (position) {
            case 0:
                return linear &&
                       (tensor.type == nvinfer1::DataType::kFLOAT || tensor.type == nvinfer1::DataType::kHALF);
            case 1: return linear && tensor.type == nvinfer1::DataType::kFLOAT;
            case 2: return linear && tensor.type == nvinfer1::DataType::kINT32;
            default: return false;
        }
    }
    int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                    const void* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept override {
        const nvinfer1::Dims& image = in[0].dims;
        // How many inputs there are is not said here; the rank of the boxes tells.
        const bool owned = in[1].dims.nbDims == rank_of_boxes(3);
        return edge_roi_resize(inputs[0], in[0].type == nvinfer1::DataType::kHALF, static_cast<const float*>(inputs[1]),
                               owned ? static_cast<const int*>(inputs[2]) : nullptr, static_cast<int>(image.d[0]),
                               static_cast<int>(out[0].dims.d[0]), static_cast<int>(image.d[2]),
                               static_cast<int>(image.d[3]), size, number, format_of(out[0]), outputs[0], stream);
    }

  private:
    static int rank_of_boxes(int32_t inputs) { return inputs == 3 ? 2 : 3; }
    bool quantised() const { return number > 0; }

    // EdgeFormat of a tensor, -1 for what the kernel does not write.
    static int format_of(const nvinfer1::PluginTensorDesc& tensor) {
        using nvinfer1::DataType;
        using nvinfer1::TensorFormat;
        const DataType type = tensor.type;
        switch (tensor.format) {
            case TensorFormat::kLINEAR:
                return type == DataType::kFLOAT  ? EDGE_FP32_LINEAR
                       : type == DataType::kHALF ? EDGE_FP16_LINEAR
                       : type == DataType::kINT8 ? EDGE_INT8_LINEAR
                                                 : -1;
            case TensorFormat::kHWC8: return type == DataType::kHALF ? EDGE_FP16_HWC8 : -1;
            case TensorFormat::kCHW4: return type == DataType::kINT8 ? EDGE_INT8_CHW4 : -1;
            case TensorFormat::kCHW32: return type == DataType::kINT8 ? EDGE_INT8_CHW32 : -1;
            default: return -1;
        }
    }
};

}  // namespace edge
