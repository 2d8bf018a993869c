// TensorRT plugin edge::RegionBoxes, version 1: maps (B, K, n, n) fp32 -> boxes (B, K, 4) fp32.
#pragma once

#include "launch.h"            // defines: edge_region_boxes
#include "plugin/operation.h"  // defines: Operation, Attribute, report

namespace edge {

class RegionBoxesPlugin final : public Operation<RegionBoxesPlugin> {
  public:
    static constexpr char kName[] = "RegionBoxes";
    static constexpr int kMaxSize = 1024, kStride = 32;
    static constexpr Attribute kAttributes[2] = {{"size", kStride, kMaxSize, true, true},
                                                 {"threshold", 1e-6, 1 - 1e-6, false, true}};

    RegionBoxesPlugin(int32_t size, float threshold) : Operation(size, threshold) {}

    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
        const nvinfer1::Dims* maps = inputs == 1 ? &in[0].desc.dims : nullptr;
        if (maps && maps->nbDims == 4 && maps->d[2] == maps->d[3] && maps->d[2] >= 1 && maps->d[2] * 2 <= size &&
            maps->d[2] <= kMaxSize / kStride) {
            return 0;
        }
        report(
            "[plugin] RegionBoxes must get one input of square maps, got %d inputs. Expected (B, K, n, n), n up to %d. "
            "Do export again.",
            inputs, size / 2 < kMaxSize / kStride ? size / 2 : kMaxSize / kStride);
        return -1;
    }
    int32_t getOutputDataTypes(nvinfer1::DataType* out, int32_t outputs, const nvinfer1::DataType* in,
                               int32_t inputs) const noexcept override {
        if (inputs != 1 || outputs != 1 || in[0] != nvinfer1::DataType::kFLOAT) return -1;
        out[0] = nvinfer1::DataType::kFLOAT;
        return 0;
    }
    int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs*, int32_t,
                            nvinfer1::DimsExprs* out, int32_t outputs,
                            nvinfer1::IExprBuilder& expressions) noexcept override {
        if (inputs != 1 || outputs != 1 || in[0].nbDims != 4) return -1;
        out[0].nbDims = 3;
        out[0].d[0] = in[0].d[0];
        out[0].d[1] = in[0].d[1];
        out[0].d[2] = expressions.constant(4);
        return 0;
    }
    // Coordinates stay fp32 in every precision: fp16 has steps of a quarter pixel near 448.
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t,
                                   int32_t) noexcept override {
        const nvinfer1::PluginTensorDesc& tensor = tensors[position].desc;
        return tensor.type == nvinfer1::DataType::kFLOAT && tensor.format == nvinfer1::TensorFormat::kLINEAR;
    }
    int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                    void* const* outputs, void*, cudaStream_t stream) noexcept override {
        const nvinfer1::Dims& maps = in[0].dims;
        return edge_region_boxes(static_cast<const float*>(inputs[0]), static_cast<int>(maps.d[0] * maps.d[1]),
                                 static_cast<int>(maps.d[2]), size, number, static_cast<float*>(outputs[0]), stream);
    }
};

}  // namespace edge
