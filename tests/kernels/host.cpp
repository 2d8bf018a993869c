// The kernels' own code, run on the CPU: one call per thread of the grid, one phase at a time per block.
// Built into a shared library by the tests and called through ctypes.

#include <cstdint>  // defines: std::uintptr_t
#include <cstring>  // defines: std::memset

#include "region_boxes/reference.h"
#include "region_boxes/region_boxes.cuh"
#include "roi_resize/bands.cuh"
#include "roi_resize/reference.h"
#include "roi_resize/roi_resize.cuh"

namespace {

// Runs every lane of a block through a phase before any lane enters the next: what the barrier guarantees.
struct EachLane {
    int count;
    template <typename Phase>
    void operator()(Phase phase) const {
        for (int lane = 0; lane < count; ++lane) phase(edge::Lane{lane, count});
    }
};

// As EachLane, for blocks that know threads by their number.
struct EachThread {
    int count;
    template <typename Phase>
    void operator()(Phase phase) const {
        for (int thread = 0; thread < count; ++thread) phase(thread);
    }
};

template <int COLUMNS, int ROWS, typename Block>
void run_bands(const edge::RoiResize& op, int crops, int threads, Block block) {
    for (int crop = 0; crop < crops; ++crop) {
        for (int y = 0; y < edge::ceil_div(op.size, ROWS); ++y) {
            for (int z = 0; z < edge::ceil_div(op.size, COLUMNS * threads); ++z) {
                block(edge::make_band(op, ROWS, COLUMNS * threads, y, crop, z));
            }
        }
    }
}

template <typename In, typename Out>
struct Crops {
    edge::RoiResize op;
    const In* image;
    const float* boxes;
    const int* owner;
    int count;
    Out* out;
};

template <typename In, typename Out, edge::Layout LAYOUT, int COLUMNS>
void run_tiles(const Crops<In, Out>& crops) {
    for (int crop = 0; crop < crops.count; ++crop) {
        for (int tile = 0; tile < edge::tiles_per_crop<COLUMNS, edge::kRows>(crops.op.size); ++tile) {
            edge::roi_resize_tile<In, Out, LAYOUT, COLUMNS, edge::kRows>(crops.op, crops.image, crops.boxes,
                                                                         crops.owner, crop, tile, crops.out);
        }
    }
}

template <int COLUMNS, int ROWS, bool AHEAD>
void run_global(const Crops<__half, __half>& crops, int threads) {
    edge::Plan<ROWS> plan;
    run_bands<COLUMNS, ROWS>(crops.op, crops.count, threads, [&](const edge::Band& band) {
        edge::roi_resize_band<__half, __half, edge::Layout::kLinear, COLUMNS, ROWS, AHEAD>(
            crops.op, plan, crops.image, crops.boxes, crops.owner, band, crops.out, EachThread{threads});
    });
}

template <typename In, typename Out, edge::Layout LAYOUT, int COLUMNS, int ROWS, int THREADS>
void run_staged(const Crops<In, Out>& crops) {
    static edge::Stage<In, COLUMNS, ROWS, THREADS> stage;
    // NaN where nothing was copied: a pixel beside the stage shows.
    std::memset(static_cast<void*>(&stage), 0xff, sizeof(stage));
    run_bands<COLUMNS, ROWS>(crops.op, crops.count, THREADS, [&](const edge::Band& band) {
        edge::roi_resize_staged<In, Out, LAYOUT, COLUMNS, ROWS, THREADS>(
            crops.op, stage, crops.image, crops.boxes, crops.owner, band, crops.out, EachThread{THREADS});
    });
}

template <int COLUMNS, int ROWS, int THREADS>
void run_staged(const Crops<__half, __half>& crops) {
    run_staged<__half, __half, edge::Layout::kLinear, COLUMNS, ROWS, THREADS>(crops);
}

// As launch.cu chooses; `staged` false leaves the staged version out.
template <typename In, typename Out, edge::Layout LAYOUT, int COLUMNS>
void run(const Crops<In, Out>& crops, bool staged) {
    if (staged && edge::may_stage<In>(crops.op) && reinterpret_cast<std::uintptr_t>(crops.image) % 16 == 0) {
        if (edge::prefers_wide<In, COLUMNS>(crops.op.size))
            run_staged<In, Out, LAYOUT, COLUMNS, edge::kStagedRows, edge::kWide<In, COLUMNS>>(crops);
        else
            run_staged<In, Out, LAYOUT, COLUMNS, edge::kStagedRows, edge::kNarrow<In, COLUMNS>>(crops);
    } else {
        run_tiles<In, Out, LAYOUT, COLUMNS>(crops);
    }
}

template <typename In, typename Out, edge::Layout LAYOUT>
void run(const edge::RoiResize& op, const void* image, const float* boxes, const int* owner, int crops, void* out,
         bool staged) {
    constexpr int kColumns = edge::kColumns<Out, LAYOUT>;
    const Crops<In, Out> all = {op, static_cast<const In*>(image), boxes, owner, crops, static_cast<Out*>(out)};
    op.size % kColumns == 0 ? run<In, Out, LAYOUT, kColumns>(all, staged) : run<In, Out, LAYOUT, 1>(all, staged);
}

template <typename Find>
void find_boxes(int count, float* boxes, Find find) {
    for (int block = 0; block < 2 * count; ++block) {
        const int region = block / 2, side = block % 2;
        const edge::Interval found = find(region, static_cast<edge::Side>(side));
        boxes[region * 4 + side] = static_cast<float>(found.begin);
        boxes[region * 4 + 2 + side] = static_cast<float>(found.end);
    }
}

template <typename In>
int run_format(const edge::RoiResize& op, const void* image, const float* boxes, const int* owner, int crops,
               int format, void* out, bool staged) {
    using edge::Layout;
    switch (format) {
        case 0: run<In, float, Layout::kLinear>(op, image, boxes, owner, crops, out, staged); return 0;
        case 1: run<In, __half, Layout::kLinear>(op, image, boxes, owner, crops, out, staged); return 0;
        case 2: run<In, __half, Layout::kHwc8>(op, image, boxes, owner, crops, out, staged); return 0;
        default: return 1;
    }
}

}  // namespace

extern "C" {

void reference_roi_resize(const float* image, const float* boxes, const int* owner, int images, int crops, int height,
                          int width, int size, double* out) {
    edge::reference::roi_resize(image, boxes, owner, images, crops, height, width, size, out);
}

// half_image: 0 for fp32 pixels, 1 for fp16; format: 0 to 2 in the order of run_format; staged: see run.
int kernel_roi_resize(const void* image, int half_image, const float* boxes, const int* owner, int images, int crops,
                      int height, int width, int size, int format, int staged, void* out) {
    const edge::RoiResize op = {images, crops / images, height, width, size};
    return half_image ? run_format<__half>(op, image, boxes, owner, crops, format, out, staged != 0)
                      : run_format<float>(op, image, boxes, owner, crops, format, out, staged != 0);
}

// A version of the ladder, fp16 to fp16 linear, with one of its block sizes; 1 if there is no such version, 2 if it
// does not take the problem.
int ladder_roi_resize(int version, int threads, const void* image, const float* boxes, const int* owner, int images,
                      int crops, int height, int width, int size, void* out) {
    const edge::RoiResize op = {images, crops / images, height, width, size};
    const Crops<__half, __half> all = {op,    static_cast<const __half*>(image), boxes, owner,
                                       crops, static_cast<__half*>(out)};
    if (version >= 11 && !edge::may_stage<__half>(op)) return 2;
    switch (version * 1000 + threads) {
        case 9064: run_global<2, 16, false>(all, threads); return 0;
        case 10128: run_global<2, 16, true>(all, threads); return 0;
        case 11032: run_staged<2, 16, 32>(all); return 0;
        case 11064: run_staged<2, 16, 64>(all); return 0;
        case 11128: run_staged<2, 16, 128>(all); return 0;
        case 12032: run_staged<4, 16, 32>(all); return 0;
        case 12064: run_staged<4, 16, 64>(all); return 0;
        case 13064: run_staged<2, 8, 64>(all); return 0;
        case 13256: run_staged<2, 8, 256>(all); return 0;
        case 14224: run_staged<2, 10, 224>(all); return 0;
        default: return 1;
    }
}

void reference_bounds(const float* profiles, int count, int length, float threshold, int* intervals) {
    for (int i = 0; i < count; ++i) {
        const edge::reference::Interval found = edge::reference::bounds(profiles + i * length, length, threshold);
        intervals[2 * i] = found.begin;
        intervals[2 * i + 1] = found.end;
    }
}

void kernel_bounds(const float* profiles, int count, int length, float threshold, int threads, int* intervals) {
    static edge::Workspace work;
    const edge::RegionBoxes op = {1, length, threshold};
    for (int i = 0; i < count; ++i) {
        const edge::Interval found = edge::run_bounds(op, work, profiles + i * length, EachLane{threads});
        intervals[2 * i] = found.begin;
        intervals[2 * i + 1] = found.end;
    }
}

void reference_region_boxes(const float* maps, int count, int grid, int size, float threshold, float* boxes) {
    edge::reference::region_boxes(maps, count, grid, size, threshold, boxes);
}

void kernel_region_boxes(const float* maps, int count, int grid, int size, float threshold, int threads, float* boxes) {
    static edge::Workspace work;
    const edge::RegionBoxes op = {grid, size, threshold};
    find_boxes(count, boxes, [&](int region, edge::Side side) {
        return edge::run_block(op, work, side, maps + region * grid * grid, EachLane{threads});
    });
}

}  // extern "C"
