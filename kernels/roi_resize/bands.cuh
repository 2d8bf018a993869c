// Versions 9 and later of RoiResize (ladder.cu): a block makes a band of rows, so that all its threads read the same
// source rows. What the rows of the band need is found once per block; formats as in roi_resize.cuh.
//
// image, boxes, owner, out: see roi_resize.cuh
// A block of `threads` makes threads * COLUMNS columns and ROWS rows of one crop, all channels. It works in phases with
// a barrier between them, as RegionBoxes does, so that a host compiler runs the same block one thread at a time.
#pragma once

#include "roi_resize/roi_resize.cuh"  // defines: RoiResize, Axis, taps_at, lerp, encode, Vector, image_of

namespace edge {

// What a block works on. A grid has x = bands of a crop, y = crops, z = segments across a band.
struct Band {
    int crop, first_row, rows, first_column, columns;
};

EDGE_FUNCTION Band make_band(const RoiResize& op, int height, int width, int x, int y, int z) {
    const int below = op.size - x * height, beside = op.size - z * width;
    return {y, x * height, below < height ? below : height, z * width, beside < width ? beside : width};
}

// An output row: the upper of its two source rows and the weight of the lower.
struct Row {
    int source;
    float weight;
};

// What is the same for all threads of a block, found by its first warp.
template <int ROWS>
struct Plan {
    static_assert(ROWS < 32, "a lane of the first warp finds a row");

    Axis horizontal;
    int left, right, top, bottom;  // source pixels under the band
    int last;                      // source row of the crop
    size_t image;                  // offset of the image whose crop it is
    Row rows[ROWS + 1];            // behind those in use one with source -2, where a walk ends
};

template <int ROWS>
EDGE_FUNCTION void find_plan(const RoiResize& op, const float* boxes, const int* owner, const Band& band, int thread,
                             Plan<ROWS>& plan) {
    if (thread >= 32) return;
    const float* box = boxes + static_cast<size_t>(band.crop) * 4;
    const Axis horizontal = make_axis(read(box + 0), read(box + 2), op.width, op.size);
    const Axis vertical = make_axis(read(box + 1), read(box + 3), op.height, op.size);
    if (thread <= band.rows) {
        const Taps taps = taps_at(vertical, band.first_row + thread);
        plan.rows[thread] = {thread < band.rows ? taps.lower : -2, taps.weight};
    }
    if (thread > 0) return;
    plan.horizontal = horizontal;
    plan.left = taps_at(horizontal, band.first_column).lower;
    plan.right = taps_at(horizontal, band.first_column + band.columns - 1).upper;
    plan.top = taps_at(vertical, band.first_row).lower;
    plan.bottom = taps_at(vertical, band.first_row + band.rows - 1).upper;
    plan.last = vertical.last;
    plan.image = image_of(op, owner, band.crop) * size_t{kChannels} * op.height * op.width;
}

EDGE_FUNCTION int least(int a, int b) { return b < a ? b : a; }

// Hides where a pointer comes from: the compiler would otherwise add its parts anew at every use.
template <typename T>
EDGE_FUNCTION T* opaque(T* pointer) {
#if defined(__CUDA_ARCH__)
    asm("" : "+l"(pointer));
#endif
    return pointer;
}

// The same for a value that is to stay in a register rather than be computed again.
EDGE_FUNCTION float opaque(float value) {
#if defined(__CUDA_ARCH__)
    asm("" : "+f"(value));
#endif
    return value;
}

EDGE_FUNCTION Axis horizontal_axis(const RoiResize& op, const float* boxes, int crop) {
    const float* box = boxes + static_cast<size_t>(crop) * 4;
    return make_axis(read(box + 0), read(box + 2), op.width, op.size);
}

EDGE_FUNCTION Axis vertical_axis(const RoiResize& op, const float* boxes, int crop) {
    const float* box = boxes + static_cast<size_t>(crop) * 4;
    return make_axis(read(box + 1), read(box + 3), op.height, op.size);
}

// Rows in use, one behind the last: no source row has that number, so a walk ends there.
// A block has more threads than a band has rows.
EDGE_FUNCTION void find_rows(const Axis& vertical, const Band& band, int thread, Row* rows) {
    if (thread > band.rows) return;
    const Taps taps = taps_at(vertical, band.first_row + thread);
    rows[thread] = {thread < band.rows ? taps.lower : -2, taps.weight};
}

// Adjacent columns of a channel. Two halves are packed by one instruction, and stay one word on their way to memory.
EDGE_FUNCTION unsigned pack_halves(float low, float high) {
#if defined(__CUDA_ARCH__)
    unsigned packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return __half_as_ushort(__float2half_rn(low)) | static_cast<unsigned>(__half_as_ushort(__float2half_rn(high)))
                                                        << 16;
#endif
}

template <typename Out, int COLUMNS>
EDGE_FUNCTION void store_columns(const float (&values)[COLUMNS], Out* address) {
    if constexpr (sizeof(Out) == 2 && COLUMNS % 2 == 0) {
        Vector<unsigned, COLUMNS / 2> packed;
        EDGE_UNROLL
        for (int i = 0; i < COLUMNS / 2; ++i) packed.lanes[i] = pack_halves(values[2 * i], values[2 * i + 1]);
        *reinterpret_cast<Vector<unsigned, COLUMNS / 2>*>(address) = packed;
    } else {
        Vector<Out, COLUMNS> packed;
        EDGE_UNROLL
        for (int i = 0; i < COLUMNS; ++i) encode(values[i], packed.lanes[i]);
        *reinterpret_cast<Vector<Out, COLUMNS>*>(address) = packed;
    }
}

// Stores rows of COLUMNS output pixels; offsets within a crop are 32-bit.
template <typename Out, Layout LAYOUT, int COLUMNS>
struct RowWriter {
    static constexpr int kPlanes = LAYOUT == Layout::kLinear ? kChannels : 1;

    Out* planes[kPlanes];
    unsigned pixel, size;

    EDGE_FUNCTION RowWriter(const RoiResize& op, Out* out, int crop, int row, int column)
        : pixel(row * op.size + column), size(op.size) {
        const size_t plane = static_cast<size_t>(op.size) * op.size;
        EDGE_UNROLL
        for (int i = 0; i < kPlanes; ++i) {
            planes[i] = opaque(out + (crop * size_t{kPlanes} + i) * plane * kChannelBlock<LAYOUT>);
        }
    }

    EDGE_FUNCTION void operator()(const float (&values)[kChannels][COLUMNS]) {
        if constexpr (LAYOUT == Layout::kLinear) {
            EDGE_UNROLL
            for (int channel = 0; channel < kChannels; ++channel) {
                store_columns(values[channel], planes[channel] + pixel);
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
                reinterpret_cast<Vector<Out, kBlock>*>(planes[0])[pixel + i] = packed;
            }
        }
        pixel += size;
    }
};

// Walks down the rows of a band. read_row(source row, line) interpolates a source row across, write_row(values) stores
// an output row. The two source rows in use change places instead of being copied, and their difference is taken once
// per source row, not once per output row.
template <int COLUMNS, typename Read, typename Write>
EDGE_FUNCTION void walk_rows(const Row* rows, int last, Read& read_row, Write& write_row) {
    float even[kChannels][COLUMNS], odd[kChannels][COLUMNS];
    Row row = rows[0];
    int held = row.source;
    const auto write_rows = [&](const float (&upper)[kChannels][COLUMNS], const float (&lower)[kChannels][COLUMNS]) {
        float slope[kChannels][COLUMNS];
        EDGE_UNROLL
        for (int channel = 0; channel < kChannels; ++channel) {
            EDGE_UNROLL
            for (int i = 0; i < COLUMNS; ++i) slope[channel][i] = opaque(lower[channel][i] - upper[channel][i]);
        }
        do {
            float values[kChannels][COLUMNS];
            EDGE_UNROLL
            for (int channel = 0; channel < kChannels; ++channel) {
                EDGE_UNROLL
                for (int i = 0; i < COLUMNS; ++i) {
                    values[channel][i] = fmaf(row.weight, slope[channel][i], upper[channel][i]);
                }
            }
            write_row(values);
            row = *++rows;
        } while (row.source == held);
        return row.source >= 0;
    };
    // The lower row becomes the upper one; only a crop that is made smaller skips rows.
    const auto step = [&](float (&lower)[kChannels][COLUMNS], float (&next)[kChannels][COLUMNS]) {
        if (row.source != held + 1) read_row(row.source, lower);
        held = row.source;
        read_row(least(held + 1, last), next);
    };
    read_row(held, even);
    read_row(least(held + 1, last), odd);
    while (true) {
        if (!write_rows(even, odd)) return;
        step(odd, even);
        if (!write_rows(odd, even)) return;
        step(even, odd);
    }
}

// ----------------------------------------------------------------------------
// source rows from global memory

// Reads a source row across; AHEAD fetches the next row before this one is used.
template <typename In, int COLUMNS, bool AHEAD>
struct GlobalRows {
    const In* planes[kChannels];
    Taps taps[COLUMNS];
    In raw[kChannels][COLUMNS][2];
    int width, last, fetched;

    EDGE_FUNCTION GlobalRows(const RoiResize& op, const In* source, const Axis& horizontal, int last, int column)
        : width(op.width), last(last), fetched(-1) {
        EDGE_UNROLL
        for (int channel = 0; channel < kChannels; ++channel) {
            planes[channel] = opaque(source + static_cast<size_t>(channel) * op.height * op.width);
        }
        EDGE_UNROLL
        for (int i = 0; i < COLUMNS; ++i) taps[i] = taps_at(horizontal, column + i);
    }

    EDGE_FUNCTION void fetch(int row) {
        fetched = row;
        EDGE_UNROLL
        for (int i = 0; i < COLUMNS; ++i) {
            const unsigned lower = row * width + taps[i].lower, upper = row * width + taps[i].upper;
            EDGE_UNROLL
            for (int channel = 0; channel < kChannels; ++channel) {
                raw[channel][i][0] = read_raw(planes[channel] + lower);
                raw[channel][i][1] = read_raw(planes[channel] + upper);
            }
        }
    }

    EDGE_FUNCTION void operator()(int row, float (&values)[kChannels][COLUMNS]) {
        if (!AHEAD || row != fetched) fetch(row);
        EDGE_UNROLL
        for (int channel = 0; channel < kChannels; ++channel) {
            EDGE_UNROLL
            for (int i = 0; i < COLUMNS; ++i) {
                values[channel][i] = lerp(to_float(raw[channel][i][0]), to_float(raw[channel][i][1]), taps[i].weight);
            }
        }
        if (AHEAD) fetch(least(row + 1, last));
    }
};

template <typename In, typename Out, Layout LAYOUT, int COLUMNS, int ROWS, bool AHEAD, typename Each>
EDGE_FUNCTION void roi_resize_band(const RoiResize& op, Plan<ROWS>& plan, const In* image, const float* boxes,
                                   const int* owner, const Band& band, Out* out, Each each) {
    each([&](int thread) { find_plan(op, boxes, owner, band, thread, plan); });
    each([&](int thread) {
        if (thread * COLUMNS >= band.columns) return;
        const int column = band.first_column + thread * COLUMNS;
        GlobalRows<In, COLUMNS, AHEAD> read_row(op, image + plan.image, plan.horizontal, plan.last, column);
        RowWriter<Out, LAYOUT, COLUMNS> write_row(op, out, band.crop, band.first_row, column);
        walk_rows<COLUMNS>(plan.rows, plan.last, read_row, write_row);
    });
}

// ----------------------------------------------------------------------------
// source rows from shared memory

// 16 bytes, both addresses multiples of 16; on the GPU they arrive by the end of the phase, not of the call.
EDGE_FUNCTION void copy_ahead(void* to, const void* from) {
#if defined(__CUDA_ARCH__)
    asm volatile(
        "cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
        "l"(__cvta_generic_to_global(from))
        : "memory");
#else
    for (int i = 0; i < 16; ++i) static_cast<char*>(to)[i] = static_cast<const char*>(from)[i];
#endif
}

EDGE_FUNCTION void await_copies() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// The part of the image under a band, for crops that are made larger or keep their size.
template <typename In, int COLUMNS, int ROWS, int THREADS>
struct Stage {
    static constexpr int kVector = 16 / sizeof(In);
    static constexpr int kPitch = (COLUMNS * THREADS + 2 + 2 * kVector - 2) / kVector * kVector;
    static constexpr int kSlots = ROWS + 2;

    alignas(16) In pixels[kSlots][kChannels][kPitch];
    Plan<ROWS> plan;
};

constexpr int kStagedRows = 10;

// Threads of a narrow block: fewer than 128 where a thread's columns take more shared memory.
template <typename In, int COLUMNS>
constexpr int kNarrow = 512 / (sizeof(In) * COLUMNS) < 128 ? 512 / static_cast<int>(sizeof(In) * COLUMNS) : 128;

// And of a wide one, which a row of 448 halves fills: 33 KB of shared memory.
template <typename In, int COLUMNS>
constexpr int kWide = sizeof(In) * COLUMNS <= 4 ? 224 : kNarrow<In, COLUMNS>;

// Whether wide blocks leave fewer threads without a column.
template <typename In, int COLUMNS>
EDGE_FUNCTION bool prefers_wide(int size) {
    constexpr int wide = kWide<In, COLUMNS>, narrow = kNarrow<In, COLUMNS>;
    return ceil_div(size, COLUMNS * wide) * wide < ceil_div(size, COLUMNS * narrow) * narrow;
}

// What the staged kernel asks for beside 16-byte alignment of the image.
template <typename In>
EDGE_FUNCTION bool may_stage(const RoiResize& op) {
    return op.size >= op.height && op.size >= op.width && op.width * sizeof(In) % 16 == 0;
}

template <typename In, typename Out, Layout LAYOUT, int COLUMNS, int ROWS, int THREADS, typename Each>
EDGE_FUNCTION void roi_resize_staged(const RoiResize& op, Stage<In, COLUMNS, ROWS, THREADS>& stage, const In* image,
                                     const float* boxes, const int* owner, const Band& band, Out* out, Each each) {
    constexpr int kVector = 16 / sizeof(In), kWarp = 32, kWarps = THREADS / kWarp;
    const Plan<ROWS>& plan = stage.plan;
    each([&](int thread) { find_plan(op, boxes, owner, band, thread, stage.plan); });
    each([&](int thread) {
        const size_t plane = static_cast<size_t>(op.height) * op.width;
        const In* planes[kChannels];
        EDGE_UNROLL
        for (int channel = 0; channel < kChannels; ++channel)
            planes[channel] = opaque(image + plan.image + channel * plane);
        const int warp = thread / kWarp, left = plan.left / kVector * kVector, slots = plan.bottom - plan.top + 1;
        EDGE_ROLL
        for (int x = thread % kWarp * kVector; left + x <= plan.right; x += kWarp * kVector) {
            unsigned pixel = (plan.top + warp) * op.width + left + x;
            EDGE_ROLL
            for (int slot = warp; slot < slots; slot += kWarps, pixel += kWarps * op.width) {
                EDGE_UNROLL
                for (int channel = 0; channel < kChannels; ++channel) {
                    copy_ahead(&stage.pixels[slot][channel][x], planes[channel] + pixel);
                }
            }
        }
        await_copies();
    });
    each([&](int thread) {
        if (thread * COLUMNS >= band.columns) return;
        const int column = band.first_column + thread * COLUMNS;
        const Axis horizontal = plan.horizontal;
        // Byte offsets from where source row 0 would lie: a row's address is then one multiply-add per tap.
        constexpr int kPixel = sizeof(In), kPlane = Stage<In, COLUMNS, ROWS, THREADS>::kPitch * kPixel;
        constexpr int kRow = kChannels * kPlane;
        const char* pixels = reinterpret_cast<const char*>(stage.pixels);
        const int origin = -plan.top * kRow - plan.left / kVector * kVector * kPixel;
        int lower[COLUMNS], upper[COLUMNS];
        float weights[COLUMNS];
        EDGE_UNROLL
        for (int i = 0; i < COLUMNS; ++i) {
            const Taps taps = taps_at(horizontal, column + i);
            lower[i] = origin + taps.lower * kPixel;
            upper[i] = origin + taps.upper * kPixel;
            weights[i] = taps.weight;
        }
        const auto pixel = [&](int offset) { return to_float(*reinterpret_cast<const In*>(pixels + offset)); };
        const auto read_row = [&](int row, float (&values)[kChannels][COLUMNS]) {
            EDGE_UNROLL
            for (int i = 0; i < COLUMNS; ++i) {
                const int left = row * kRow + lower[i], right = row * kRow + upper[i];
                EDGE_UNROLL
                for (int channel = 0; channel < kChannels; ++channel) {
                    values[channel][i] =
                        lerp(pixel(left + channel * kPlane), pixel(right + channel * kPlane), weights[i]);
                }
            }
        };
        RowWriter<Out, LAYOUT, COLUMNS> write_row(op, out, band.crop, band.first_row, column);
        walk_rows<COLUMNS>(plan.rows, plan.last, read_row, write_row);
    });
}

// ----------------------------------------------------------------------------
// kernels

#if defined(__CUDACC__)

struct EachThreadOfBand {
    template <typename Phase>
    __device__ void operator()(Phase phase) const {
        phase(static_cast<int>(threadIdx.x));
        __syncthreads();
    }
};

template <typename In, typename Out, Layout LAYOUT, int COLUMNS, int ROWS, bool AHEAD>
__global__ void roi_resize_bands(RoiResize op, const In* __restrict__ image, const float* __restrict__ boxes,
                                 const int* __restrict__ owner, Out* __restrict__ out) {
    __shared__ Plan<ROWS> plan;
    const Band band = make_band(op, ROWS, COLUMNS * blockDim.x, blockIdx.x, blockIdx.y, blockIdx.z);
    roi_resize_band<In, Out, LAYOUT, COLUMNS, ROWS, AHEAD>(op, plan, image, boxes, owner, band, out,
                                                           EachThreadOfBand());
}

template <typename In, typename Out, Layout LAYOUT, int COLUMNS, int ROWS, int THREADS>
__global__ void __launch_bounds__(THREADS)
    roi_resize_staged_bands(RoiResize op, const In* __restrict__ image, const float* __restrict__ boxes,
                            const int* __restrict__ owner, Out* __restrict__ out) {
    __shared__ Stage<In, COLUMNS, ROWS, THREADS> stage;
    const Band band = make_band(op, ROWS, COLUMNS * THREADS, blockIdx.x, blockIdx.y, blockIdx.z);
    roi_resize_staged<In, Out, LAYOUT, COLUMNS, ROWS, THREADS>(op, stage, image, boxes, owner, band, out,
                                                               EachThreadOfBand());
}

#endif

}  // namespace edge
