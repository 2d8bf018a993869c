// RoiResize: cut a box out of an image and stretch it over the whole model input, bilinear with aligned corners.
//
// image is (B, 3, height, width), fp32 or fp16, linear
// boxes is (crops, 4) fp32: x1 y1 x2 y2 in pixels, x2/y2 exclusive; read on the device, clamped to the image
// owner is (crops) int32, the image of each box, clamped to those there are; or null: image b has the boxes from
// b * regions on
// out is (crops, 3, size, size) in one of
//   Linear  fp32 or fp16    (crop, channel, row, column)
//   Hwc8    fp16            (crop, row, column, 8), channels 3..7 zero
// Coordinates and arithmetic are fp32 in every format.
//
// A thread makes COLUMNS x ROWS output pixels of all three channels. A crop is never larger than the image, so source
// rows go by more slowly than output rows: going down, the thread keeps the two source rows in use, already
// interpolated across, and reads two pixels per channel only when it enters a new source row. This header knows neither
// torch nor TensorRT and compiles with nvcc, NVRTC and a host compiler.
#pragma once

#include "platform.h"  // defines: EDGE_FUNCTION, EDGE_UNROLL, read, product, ceil_div

namespace edge {

constexpr int kChannels = 3;

enum class Layout : int { kLinear = 0, kHwc8 = 1 };

struct RoiResize {
    int images;         // with an owner: how many it may name
    int regions;        // without: crops per image
    int height, width;  // of the source image
    int size;           // of the crop's output, both sides
};

// ----------------------------------------------------------------------------
// coordinates

// One axis of a crop: output sample i lies at origin + offset + i * step; taps never leave [origin, last].
// The step is kept with its rounding error: i * step is then right to the last bit of the weight, where a plain fp32
// product is off by 2^-16 of a pixel near column 448, which on a noisy image is already an error of 1e-5.
struct Axis {
    int origin, last;
    float offset, step, residual;
};

struct Taps {
    int lower, upper;
    float weight;  // of upper
};

EDGE_FUNCTION Axis make_axis(float begin, float end, int source, int size) {
    begin = fminf(fmaxf(begin, 0.0f), static_cast<float>(source - 1));
    end = fminf(fmaxf(end, begin + 1.0f), static_cast<float>(source));
    const float origin = floorf(begin), span = end - 1.0f - begin;
    // The corrected product is the rounded quotient (Markstein 1990); one division serves both axes.
    const float intervals = static_cast<float>(size > 1 ? size - 1 : 1), inverse = 1.0f / intervals;
    const float product_step = product(span, inverse);
    const float quotient = fmaf(fmaf(-product_step, intervals, span), inverse, product_step);
    const float step = size > 1 ? quotient : 0.0f;
    const float residual = size > 1 ? product(fmaf(-step, intervals, span), inverse) : 0.0f;
    return {static_cast<int>(origin), static_cast<int>(ceilf(end)) - 1, begin - origin, step, residual};
}

EDGE_FUNCTION Taps taps_at(const Axis& axis, int index) {
    const float i = static_cast<float>(index);
    const float rounded = product(i, axis.step);
    const float error = fmaf(i, axis.step, -rounded) + product(i, axis.residual);
    const float position = rounded + axis.offset, base = floorf(position);
    const int sample = axis.origin + static_cast<int>(base);
    const int lower = sample < axis.last ? sample : axis.last;
    return {lower, lower < axis.last ? lower + 1 : axis.last, fminf(fmaxf((position - base) + error, 0.0f), 1.0f)};
}

EDGE_FUNCTION float lerp(float a, float b, float weight) { return fmaf(weight, b - a, a); }

// ----------------------------------------------------------------------------
// output formats

EDGE_FUNCTION void encode(float value, float& out) { out = value; }

EDGE_FUNCTION void encode(float value, __half& out) { out = __float2half_rn(value); }

// What is stored at once: adjacent columns of one channel, or all channels of one pixel.
template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT > 16 ? 16 : sizeof(T) * COUNT) Vector {
    T lanes[COUNT];
};

// Channels stored together, padded with zeros behind the third.
template <Layout LAYOUT>
constexpr int kChannelBlock = LAYOUT == Layout::kHwc8 ? 8 : 1;

// Columns per thread that make a four-byte store: 128 contiguous bytes per warp, while the warp's reads stay within
// one cache line per row for 16-bit images. The packed format stores 16 bytes per pixel already.
template <typename Out, Layout LAYOUT>
constexpr int kColumns = LAYOUT == Layout::kLinear ? static_cast<int>(4 / sizeof(Out)) : 1;

constexpr int kRows = 8;

template <typename Out, Layout LAYOUT, int COLUMNS>
EDGE_FUNCTION void store(const RoiResize& op, int crop, int row, int column, const float (&values)[kChannels][COLUMNS],
                         Out* out) {
    const size_t plane = static_cast<size_t>(op.size) * op.size;
    const size_t pixel = static_cast<size_t>(row) * op.size + column;
    if constexpr (LAYOUT == Layout::kLinear) {
        EDGE_UNROLL
        for (int channel = 0; channel < kChannels; ++channel) {
            Vector<Out, COLUMNS> packed;
            EDGE_UNROLL
            for (int i = 0; i < COLUMNS; ++i) encode(values[channel][i], packed.lanes[i]);
            Out* address = out + (static_cast<size_t>(crop) * kChannels + channel) * plane + pixel;
            *reinterpret_cast<Vector<Out, COLUMNS>*>(address) = packed;
        }
    } else {
        constexpr int kBlock = kChannelBlock<LAYOUT>;
        EDGE_UNROLL
        for (int i = 0; i < COLUMNS; ++i) {
            Vector<Out, kBlock> packed;
            EDGE_UNROLL
            for (int channel = 0; channel < kBlock; ++channel) {
                encode(channel < kChannels ? values[channel < kChannels ? channel : 0][i] : 0.0f,
                       packed.lanes[channel]);
            }
            reinterpret_cast<Vector<Out, kBlock>*>(out)[crop * plane + pixel + i] = packed;
        }
    }
}

// ----------------------------------------------------------------------------
// the work of one thread

template <int COLUMNS, int ROWS>
EDGE_FUNCTION int tiles_per_crop(int size) {
    return ceil_div(size, COLUMNS) * ceil_div(size, ROWS);
}

EDGE_FUNCTION int image_of(const RoiResize& op, const int* owner, int crop) {
    if (owner == nullptr) return static_cast<unsigned>(crop) / static_cast<unsigned>(op.regions);
    const int named = read(owner + crop), last = op.images - 1;
    return named < 0 ? 0 : named < last ? named : last;
}

// Tile t of a crop: COLUMNS columns from t % across, ROWS rows from t / across. size is a multiple of COLUMNS.
template <typename In, typename Out, Layout LAYOUT, int COLUMNS, int ROWS>
EDGE_FUNCTION void roi_resize_tile(const RoiResize& op, const In* image, const float* boxes, const int* owner, int crop,
                                   int tile, Out* out) {
    const int across = ceil_div(op.size, COLUMNS);
    const int column = tile % across * COLUMNS;
    const int first_row = tile / across * ROWS;
    const float* box = boxes + static_cast<size_t>(crop) * 4;
    const Axis horizontal = make_axis(read(box + 0), read(box + 2), op.width, op.size);
    const Axis vertical = make_axis(read(box + 1), read(box + 3), op.height, op.size);

    Taps taps[COLUMNS];
    EDGE_UNROLL
    for (int i = 0; i < COLUMNS; ++i) taps[i] = taps_at(horizontal, column + i);

    const In* source = image + static_cast<size_t>(image_of(op, owner, crop)) * kChannels * op.height * op.width;
    const auto read_row = [&](int row, float (&line)[kChannels][COLUMNS]) {
        EDGE_UNROLL
        for (int channel = 0; channel < kChannels; ++channel) {
            const In* pixels = source + (channel * op.height + row) * op.width;
            EDGE_UNROLL
            for (int i = 0; i < COLUMNS; ++i) {
                line[channel][i] = lerp(read(pixels + taps[i].lower), read(pixels + taps[i].upper), taps[i].weight);
            }
        }
    };

    float upper[kChannels][COLUMNS], lower[kChannels][COLUMNS], values[kChannels][COLUMNS];
    int held = -2;  // source row in `upper`
    const int last_row = first_row + ROWS < op.size ? first_row + ROWS : op.size;
    for (int row = first_row; row < last_row; ++row) {
        const Taps down = taps_at(vertical, row);
        if (down.lower != held) {
            if (down.lower == held + 1) {
                EDGE_UNROLL
                for (int channel = 0; channel < kChannels; ++channel) {
                    EDGE_UNROLL
                    for (int i = 0; i < COLUMNS; ++i) upper[channel][i] = lower[channel][i];
                }
            } else {
                read_row(down.lower, upper);
            }
            read_row(down.upper, lower);
            held = down.lower;
        }
        EDGE_UNROLL
        for (int channel = 0; channel < kChannels; ++channel) {
            EDGE_UNROLL
            for (int i = 0; i < COLUMNS; ++i) {
                values[channel][i] = lerp(upper[channel][i], lower[channel][i], down.weight);
            }
        }
        store<Out, LAYOUT, COLUMNS>(op, crop, row, column, values, out);
    }
}

// ----------------------------------------------------------------------------
// kernel

#if defined(__CUDACC__)

constexpr int kRoiResizeThreads = 128;

// Grid: x covers the tiles of a crop, y is the crop.
template <typename In, typename Out, Layout LAYOUT, int COLUMNS = kColumns<Out, LAYOUT>, int ROWS = kRows>
__global__ void roi_resize_kernel(RoiResize op, const In* __restrict__ image, const float* __restrict__ boxes,
                                  const int* __restrict__ owner, Out* __restrict__ out) {
    const int tile = blockIdx.x * blockDim.x + threadIdx.x;
    if (tile >= tiles_per_crop<COLUMNS, ROWS>(op.size)) return;
    roi_resize_tile<In, Out, LAYOUT, COLUMNS, ROWS>(op, image, boxes, owner, blockIdx.y, tile, out);
}

#endif

}  // namespace edge
