// Chooses the kernel instance for a format known at run time; see launch.h.

#include "launch.h"

#include <cstdint>      // defines: std::uintptr_t
#include <type_traits>  // defines: std::integral_constant, std::is_same_v

#include "region_boxes/region_boxes.cuh"  // defines: region_boxes_kernel, RegionBoxes
#include "roi_resize/bands.cuh"           // defines: roi_resize_staged_bands, may_stage, prefers_wide
#include "roi_resize/roi_resize.cuh"      // defines: roi_resize_kernel, RoiResize, Layout, kColumns

namespace {

using edge::Layout;

constexpr int kMaxCrops = 65535;  // of the grid's second dimension

// cudaLaunchKernel instead of <<<>>>: it returns this launch's own error and leaves other people's alone.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, cudaStream_t stream, Arguments... arguments) {
    static_assert((std::is_same_v<Parameters, Arguments> && ...), "addresses are passed without conversion");
    void* addresses[] = {&arguments...};
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(threads), addresses, 0, stream);
}

template <typename In, typename Out, Layout LAYOUT, int COLUMNS>
cudaError_t resize(const edge::RoiResize& op, const void* image, const float* boxes, const int* owner, int crops,
                   void* out, cudaStream_t stream) {
    if (edge::may_stage<In>(op) && reinterpret_cast<std::uintptr_t>(image) % 16 == 0) {
        const auto staged = [&](auto threads) {
            constexpr int kThreads = decltype(threads)::value;
            const dim3 grid(edge::ceil_div(op.size, edge::kStagedRows), crops,
                            edge::ceil_div(op.size, COLUMNS * kThreads));
            return launch(edge::roi_resize_staged_bands<In, Out, LAYOUT, COLUMNS, edge::kStagedRows, kThreads>, grid,
                          kThreads, stream, op, static_cast<const In*>(image), boxes, owner, static_cast<Out*>(out));
        };
        return edge::prefers_wide<In, COLUMNS>(op.size)
                   ? staged(std::integral_constant<int, edge::kWide<In, COLUMNS>>())
                   : staged(std::integral_constant<int, edge::kNarrow<In, COLUMNS>>());
    }
    const int tiles = edge::tiles_per_crop<COLUMNS, edge::kRows>(op.size);
    const dim3 grid(edge::ceil_div(tiles, edge::kRoiResizeThreads), crops);
    return launch(edge::roi_resize_kernel<In, Out, LAYOUT, COLUMNS>, grid, edge::kRoiResizeThreads, stream, op,
                  static_cast<const In*>(image), boxes, owner, static_cast<Out*>(out));
}

template <typename In, typename Out, Layout LAYOUT>
cudaError_t resize(const edge::RoiResize& op, const void* image, const float* boxes, const int* owner, int crops,
                   void* out, cudaStream_t stream) {
    constexpr int kWide = edge::kColumns<Out, LAYOUT>;
    const bool fits = op.size % kWide == 0;
    return fits ? resize<In, Out, LAYOUT, kWide>(op, image, boxes, owner, crops, out, stream)
                : resize<In, Out, LAYOUT, 1>(op, image, boxes, owner, crops, out, stream);
}

template <typename In>
cudaError_t resize(const edge::RoiResize& op, const void* image, const float* boxes, const int* owner, int crops,
                   int format, void* out, cudaStream_t stream) {
    switch (format) {
        case EDGE_FP32_LINEAR: return resize<In, float, Layout::kLinear>(op, image, boxes, owner, crops, out, stream);
        case EDGE_FP16_LINEAR: return resize<In, __half, Layout::kLinear>(op, image, boxes, owner, crops, out, stream);
        case EDGE_FP16_HWC8: return resize<In, __half, Layout::kHwc8>(op, image, boxes, owner, crops, out, stream);
        default: return cudaErrorInvalidValue;
    }
}

}  // namespace

extern "C" int edge_roi_resize(const void* image, int half_image, const float* boxes, const int* owner, int images,
                               int crops, int height, int width, int size, int format, void* out, cudaStream_t stream) {
    if (crops == 0) return cudaSuccess;
    const bool shared = owner != nullptr || (images > 0 && crops % images == 0);
    if (crops < 0 || crops > kMaxCrops || images < 1 || !shared || height < 1 || width < 1 || size < 1) {
        return cudaErrorInvalidValue;
    }
    const edge::RoiResize op = {images, crops / images, height, width, size};
    return half_image ? resize<__half>(op, image, boxes, owner, crops, format, out, stream)
                      : resize<float>(op, image, boxes, owner, crops, format, out, stream);
}

extern "C" int edge_region_boxes(const float* maps, int count, int grid, int size, float threshold, float* boxes,
                                 cudaStream_t stream) {
    if (count == 0) return cudaSuccess;
    if (count < 0 || grid < 1 || grid > edge::kMaxGrid || size < 2 * grid || size > edge::kMaxSize) {
        return cudaErrorInvalidValue;
    }
    const edge::RegionBoxes op = {grid, size, threshold};
    return launch(edge::region_boxes_kernel<>, dim3(2 * count), edge::kRegionBoxesThreads, stream, op, maps, boxes);
}
