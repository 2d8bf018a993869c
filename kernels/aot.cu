// Entry points for TensorRT's ahead-of-time "quickly deployable" plugins (10.9 and later): compiled to PTX by NVRTC on
// the device that builds the engine, which then needs no plugin library beside it. Such a kernel takes its inputs, then
// int32 arguments, then its outputs; a float attribute travels as its bits.
//
//   edge_region_boxes           grid x = 2 * B * K                                      block x = 256
//   edge_roi_resize_<in>_<out>  grid x = ceil(size / columns * ceil(size / 8) / 128)    block x = 128    grid y = R
//                               columns: fp32 linear 1, fp16 linear 2, fp16 hwc8 1
//
// size must be a multiple of 4 (model inputs are multiples of 32). No shared memory is asked for at launch.

#include "region_boxes/region_boxes.cuh"  // defines: region_boxes_block, RegionBoxes, float_of
#include "roi_resize/roi_resize.cuh"      // defines: roi_resize_tile, RoiResize, Layout, kColumns, kRows

extern "C" __global__ void __launch_bounds__(edge::kRegionBoxesThreads)
    edge_region_boxes(const float* __restrict__ maps, int grid, int size, int threshold_bits,
                      float* __restrict__ boxes) {
    edge::region_boxes_block({grid, size, edge::float_of(threshold_bits)}, maps, boxes);
}

namespace edge {

template <typename In, typename Out, Layout LAYOUT>
__device__ __forceinline__ void resize_block(const RoiResize& op, const In* image, const float* boxes, const int* owner,
                                             Out* out) {
    constexpr int kWide = kColumns<Out, LAYOUT>;
    const int tile = blockIdx.x * blockDim.x + threadIdx.x;
    if (tile >= tiles_per_crop<kWide, kRows>(op.size)) return;
    roi_resize_tile<In, Out, LAYOUT, kWide, kRows>(op, image, boxes, owner, blockIdx.y, tile, out);
}

}  // namespace edge

#define EDGE_ROI_RESIZE(form, In, Out, layout)                                                                    \
    extern "C" __global__ void __launch_bounds__(edge::kRoiResizeThreads) edge_roi_resize_##form(                 \
        const In* __restrict__ image, const float* __restrict__ boxes, const int* __restrict__ owner, int images, \
        int height, int width, int size, Out* __restrict__ out) {                                                 \
        const edge::RoiResize op = {images, 0, height, width, size};                                              \
        edge::resize_block<In, Out, edge::Layout::layout>(op, image, boxes, owner, out);                          \
    }

EDGE_ROI_RESIZE(fp32_fp32_linear, float, float, kLinear)
EDGE_ROI_RESIZE(fp32_fp16_linear, float, __half, kLinear)
EDGE_ROI_RESIZE(fp32_fp16_hwc8, float, __half, kHwc8)
EDGE_ROI_RESIZE(fp16_fp16_linear, __half, __half, kLinear)
EDGE_ROI_RESIZE(fp16_fp16_hwc8, __half, __half, kHwc8)
