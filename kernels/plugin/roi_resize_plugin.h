// TensorRT plugin edge::RoiResize, version 1: image (B, 3, H, W) fp32 or fp16, boxes (B, K, 4) fp32 -> (B * K, 3, size,
// size); or boxes (R, 4) and a third input owner (R) int32, whose image -> (R, 3, size, size). The output has the
// image's type.
#pragma once

#include "launch.h"            // defines: edge_roi_resize, EdgeFormat
#include "plugin/operation.h"  // defines: Attribute; says what an operation is

namespace edge {

struct RoiResize {
    static constexpr char kName[] = "RoiResize";
    static constexpr Attribute kAttributes[] = {{"size", 1, 4096, true}};

    int32_t size;

    bool accepts(const nvinfer1::Dims* in, int32_t inputs) const {
        if (inputs != 2 && inputs != 3) return false;
        const nvinfer1::Dims &image = in[0], &boxes = in[1];
        const int rank = rank_of_boxes(inputs);
        return image.nbDims == 4 && image.d[1] == 3 && boxes.nbDims == rank && boxes.d[rank - 1] == 4 &&
               (inputs == 2 || in[2].nbDims == 1);
    }
    void expected(char* words, size_t bytes) const {
        std::snprintf(words, bytes, "an image (B, 3, H, W) and boxes (B, K, 4), or boxes (R, 4) and owner (R)");
    }
    bool output_type(const nvinfer1::DataType* in, int32_t inputs, nvinfer1::DataType& out) const {
        out = in[0];
        if (inputs < 2 || inputs > 3 || in[1] != nvinfer1::DataType::kFLOAT) return false;
        if (inputs == 3 && in[2] != nvinfer1::DataType::kINT32) return false;
        return in[0] == nvinfer1::DataType::kFLOAT || in[0] == nvinfer1::DataType::kHALF;
    }
    bool output_shape(const nvinfer1::DimsExprs* in, int32_t inputs, nvinfer1::DimsExprs& out,
                      nvinfer1::IExprBuilder& expressions) const {
        if (inputs < 2 || inputs > 3 || in[0].nbDims != 4 || in[1].nbDims != rank_of_boxes(inputs)) return false;
        out.nbDims = 4;
        out.d[0] = inputs == 3 ? in[1].d[0]
                               : expressions.operation(nvinfer1::DimensionOperation::kPROD, *in[1].d[0], *in[1].d[1]);
        out.d[1] = in[0].d[1];
        out.d[2] = expressions.constant(size);
        out.d[3] = expressions.constant(size);
        return true;
    }
    bool supports(int32_t position, int32_t inputs, const nvinfer1::PluginTensorDesc& tensor,
                  const nvinfer1::PluginTensorDesc& image) const {
        using nvinfer1::DataType;
        const bool linear = tensor.format == nvinfer1::TensorFormat::kLINEAR;
        if (position == inputs) {
            // Widening fp16 pixels to fp32 would only cost bandwidth.
            const bool widens = tensor.type == DataType::kFLOAT && image.type != tensor.type;
            return !widens && format_of(tensor) >= 0;
        }
        switch (position) {
            case 0: return linear && (tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF);
            case 1: return linear && tensor.type == DataType::kFLOAT;
            case 2: return linear && tensor.type == DataType::kINT32;
            default: return false;
        }
    }
    int32_t launch(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                   const void* const* inputs, void* const* outputs, cudaStream_t stream) const {
        // How many inputs there are is not said here; the rank of the boxes tells.
        const bool owned = in[1].dims.nbDims == rank_of_boxes(3);
        const nvinfer1::Dims dims[] = {in[0].dims, in[1].dims, owned ? in[2].dims : nvinfer1::Dims{}};
        if (!accepts(dims, owned ? 3 : 2)) return -1;
        return edge_roi_resize(inputs[0], in[0].type == nvinfer1::DataType::kHALF, static_cast<const float*>(inputs[1]),
                               owned ? static_cast<const int*>(inputs[2]) : nullptr, static_cast<int>(dims[0].d[0]),
                               static_cast<int>(out[0].dims.d[0]), static_cast<int>(dims[0].d[2]),
                               static_cast<int>(dims[0].d[3]), size, format_of(out[0]), outputs[0], stream);
    }

  private:
    static int rank_of_boxes(int32_t inputs) { return inputs == 3 ? 2 : 3; }

    // EdgeFormat of a tensor, -1 for what the kernel does not write.
    static int format_of(const nvinfer1::PluginTensorDesc& tensor) {
        using nvinfer1::DataType;
        using nvinfer1::TensorFormat;
        const DataType type = tensor.type;
        switch (tensor.format) {
            case TensorFormat::kLINEAR:
                return type == DataType::kFLOAT ? EDGE_FP32_LINEAR : type == DataType::kHALF ? EDGE_FP16_LINEAR : -1;
            case TensorFormat::kHWC8: return type == DataType::kHALF ? EDGE_FP16_HWC8 : -1;
            default: return -1;
        }
    }
};

}  // namespace edge
