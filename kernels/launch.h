// Launches of the two kernels for callers that learn the format at run time: the TensorRT plugin, benchmarks, ctypes.
// All pointers are on the device; nothing is allocated, nothing synchronises, so every call may be captured in a graph.
#pragma once

#include <cuda_runtime_api.h>  // defines: cudaStream_t, cudaError_t

enum EdgeFormat {
    EDGE_FP32_LINEAR = 0,
    EDGE_FP16_LINEAR = 1,
    EDGE_FP16_HWC8 = 2,
};

extern "C" {

// image (images, 3, height, width) fp32 or fp16, boxes (crops, 4) fp32, owner (crops) int32 -> out (crops, 3, size,
// size) in a format. Without an owner (null) the images have equally many boxes, in turn; an owner that names no image
// is clamped. Returns a cudaError_t.
int edge_roi_resize(const void* image, int half_image, const float* boxes, const int* owner, int images, int crops,
                    int height, int width, int size, int format, void* out, cudaStream_t stream);

// maps (count, grid, grid) fp32 -> boxes (count, 4) fp32. Returns a cudaError_t.
int edge_region_boxes(const float* maps, int count, int grid, int size, float threshold, float* boxes,
                      cudaStream_t stream);
}
