// TensorRT plugin edge::RegionBoxes, version 1: maps (B, K, n, n) fp32 -> boxes (B, K, 4) fp32.
#pragma once

#include "launch.h"            // defines: edge_region_boxes
#include "plugin/operation.h"  // defines: Attribute; says what an operation is

namespace edge {

struct RegionBoxes {
    static constexpr char kName[] = "RegionBoxes";
    static constexpr int kMaxSize = 1024, kStride = 32;
    static constexpr Attribute kAttributes[] = {{"size", kStride, kMaxSize, true},
                                                {"threshold", 1e-6, 1 - 1e-6, false}};

    int32_t size;
    float threshold;

    bool accepts(const nvinfer1::Dims* in, int32_t inputs) const {
        return inputs == 1 && in->nbDims == 4 && in->d[2] == in->d[3] && in->d[2] >= 1 && in->d[2] <= most();
    }
    void expected(char* words, size_t bytes) const {
        std::snprintf(words, bytes, "one input of square maps, (B, K, n, n), n up to %d", most());
    }
    bool output_type(const nvinfer1::DataType* in, int32_t inputs, nvinfer1::DataType& out) const {
        out = nvinfer1::DataType::kFLOAT;
        return inputs == 1 && in[0] == nvinfer1::DataType::kFLOAT;
    }
    bool output_shape(const nvinfer1::DimsExprs* in, int32_t inputs, nvinfer1::DimsExprs& out,
                      nvinfer1::IExprBuilder& expressions) const {
        if (inputs != 1 || in[0].nbDims != 4) return false;
        out.nbDims = 3;
        out.d[0] = in[0].d[0];
        out.d[1] = in[0].d[1];
        out.d[2] = expressions.constant(4);
        return true;
    }
    // Coordinates stay fp32 in every precision: fp16 has steps of a quarter pixel near 448.
    bool supports(int32_t, int32_t, const nvinfer1::PluginTensorDesc& tensor, const nvinfer1::PluginTensorDesc&) const {
        return tensor.type == nvinfer1::DataType::kFLOAT && tensor.format == nvinfer1::TensorFormat::kLINEAR;
    }
    int32_t launch(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                   void* const* outputs, cudaStream_t stream) const {
        const nvinfer1::Dims& maps = in[0].dims;
        if (!accepts(&maps, 1)) return -1;
        return edge_region_boxes(static_cast<const float*>(inputs[0]), static_cast<int>(maps.d[0] * maps.d[1]),
                                 static_cast<int>(maps.d[2]), size, threshold, static_cast<float*>(outputs[0]), stream);
    }

  private:
    int most() const { return size / 2 < kMaxSize / kStride ? size / 2 : kMaxSize / kStride; }
};

}  // namespace edge
