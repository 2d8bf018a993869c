// RegionBoxes: class maps to region boxes, in one kernel and without stretching a map to full size in memory.
//
// maps is (B * K, grid, grid) fp32, after the sigmoid
// boxes is (B * K, 4) fp32: x1 y1 x2 y2 in pixels of the size x size model input, x2/y2 exclusive
//
// One block finds one interval: block 2r the columns of region r (x1, x2), block 2r + 1 its rows (y1, y2). Along an
// axis the stretched map is linear between two grid points, so the maximum over all samples is the maximum over the
// first and the last sample of every grid interval: 2 * grid - 1 candidates instead of `size`.
//
// Profiles are often linear between their extremes, so that a sample lies exactly on the threshold in real arithmetic
// and rounding decides the crossing. Positions and weights are therefore rounded as torch's upsample_bilinear2d rounds
// them.
//
// A block works in phases with a barrier between them. A phase is a plain function of (workspace, lane), so a host
// compiler runs the same block one lane at a time; see run_block. Arithmetic is IEEE fp32: never compile with fast
// math. The numbers (1) to (7) are the quirks listed in reference.h. This header knows neither torch nor TensorRT and
// compiles with nvcc, NVRTC and a host compiler.
#pragma once

#include "platform.h"  // defines: EDGE_FUNCTION, read, product, ceil_div

namespace edge {

constexpr int kMaxGrid = 32;    // 1024-pixel input at stride 32
constexpr int kMaxSize = 1024;  // pixels
constexpr int kMaxCandidates = 2 * kMaxGrid;
constexpr float kTie = 1.0f / (1 << 18);  // of the maximum
constexpr int kWord = 32;                 // samples per word of the crossing mask, and lanes per warp

struct RegionBoxes {
    int grid, size;   // size is at least twice the grid, so that no grid interval is without samples
    float threshold;  // inside (0, 1): at 0 and at 1 no profile ever crosses
};

enum class Side : int { kColumns = 0, kRows = 1 };

struct Interval {
    int begin, end;  // end exclusive
};

struct Workspace {
    float map[kMaxGrid * kMaxGrid];
    float across[kMaxGrid * kMaxCandidates];  // rows only: the map interpolated across at each candidate column
    float weights[kMaxCandidates];            // of candidate samples within their grid interval
    float profile[kMaxSize];                  // maxima, then scores in [0, 1]
    unsigned crossings[kMaxSize / kWord];     // bit i: the scores cross the threshold between samples i and i + 1
    int lowest, highest;                      // bits of the profile's extremes; floats >= 0 order as integers
    unsigned long long winner;                // see pack()
};

// One thread of the block; the block has a multiple of 32 threads.
struct Lane {
    int index, count;
};

// ----------------------------------------------------------------------------
// what differs between a warp and a loop over lanes

EDGE_FUNCTION int bits_of(float value) {
#if defined(__CUDA_ARCH__)
    return __float_as_int(value);
#else
    union {
        float value;
        int bits;
    } both = {value};
    return both.bits;
#endif
}

EDGE_FUNCTION float float_of(int bits) {
#if defined(__CUDA_ARCH__)
    return __int_as_float(bits);
#else
    union {
        int bits;
        float value;
    } both = {bits};
    return both.value;
#endif
}

// All lanes of a warp call these together.
EDGE_FUNCTION void lower_to(int* slot, int value) {
#if defined(__CUDA_ARCH__)
    value = __reduce_min_sync(0xffffffffu, value);
    if (threadIdx.x % kWord == 0) atomicMin(slot, value);
#else
    if (value < *slot) *slot = value;
#endif
}

EDGE_FUNCTION void raise_to(int* slot, int value) {
#if defined(__CUDA_ARCH__)
    value = __reduce_max_sync(0xffffffffu, value);
    if (threadIdx.x % kWord == 0) atomicMax(slot, value);
#else
    if (value > *slot) *slot = value;
#endif
}

// Bit `index` of the mask; a warp holds the 32 bits of one word.
EDGE_FUNCTION void write_bit(unsigned* words, int index, bool set) {
#if defined(__CUDA_ARCH__)
    const unsigned word = __ballot_sync(0xffffffffu, set);
    if (threadIdx.x % kWord == 0) words[index / kWord] = word;
#else
    if (index % kWord == 0) words[index / kWord] = 0;
    words[index / kWord] |= static_cast<unsigned>(set) << (index % kWord);
#endif
}

EDGE_FUNCTION void raise_alone(unsigned long long* slot, unsigned long long value) {
#if defined(__CUDA_ARCH__)
    atomicMax(slot, value);
#else
    if (value > *slot) *slot = value;
#endif
}

EDGE_FUNCTION int highest_bit(unsigned word) {
#if defined(__CUDA_ARCH__)
    return 31 - __clz(word);
#else
    return 31 - __builtin_clz(word);
#endif
}

EDGE_FUNCTION int lowest_bit(unsigned word) {
#if defined(__CUDA_ARCH__)
    return __ffs(word) - 1;
#else
    return __builtin_ctz(word);
#endif
}

// Larger of the two, NaN if either is: a map with a NaN has no box (2).
EDGE_FUNCTION float maximum(float a, float b) {
#if defined(__CUDA_ARCH__)
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
    return larger;
#else
    return b > a || b != b ? b : a;
#endif
}

// ----------------------------------------------------------------------------
// phases

// Position of a sample among grid points: the one before it and the weight of the one behind.
struct Position {
    int lower;
    float weight;
};

EDGE_FUNCTION Position position(const RegionBoxes& op, int sample) {
    const float step = static_cast<float>(op.grid - 1) / static_cast<float>(op.size - 1);
    const float whole = product(static_cast<float>(sample), step);
    const int lower = static_cast<int>(whole) < op.grid - 1 ? static_cast<int>(whole) : op.grid - 1;
    return {lower, whole - static_cast<float>(lower)};
}

EDGE_FUNCTION float blend(float a, float b, float weight) { return fmaf(1.0f - weight, a, product(weight, b)); }

// First sample at or behind a grid point as position() rounds it; `size` if there is none.
EDGE_FUNCTION int first_sample(const RegionBoxes& op, int point) {
    if (point == 0) return 0;
    int sample = ceil_div(point * (op.size - 1), op.grid - 1);
    while (sample < op.size && position(op, sample).lower < point) ++sample;
    while (position(op, sample - 1).lower >= point) --sample;
    return sample;
}

// Candidate c is the first (c even) or the last (c odd) sample of grid interval c / 2; the last grid point counts as an
// interval of its own if rounding lets a sample reach it.
EDGE_FUNCTION int candidate_count(const RegionBoxes& op) {
    return 2 * (op.grid - 1) + (position(op, op.size - 1).lower == op.grid - 1);
}

EDGE_FUNCTION int candidate_sample(const RegionBoxes& op, int candidate) {
    return first_sample(op, (candidate + 1) / 2) - candidate % 2;
}

EDGE_FUNCTION void load(const RegionBoxes& op, Workspace& work, Lane lane, const float* map) {
    for (int i = lane.index; i < op.grid * op.grid; i += lane.count) work.map[i] = read(map + i);
    for (int c = lane.index; c < candidate_count(op); c += lane.count) {
        work.weights[c] = position(op, candidate_sample(op, c)).weight;
    }
    if (lane.index == 0) {
        work.lowest = 0x7fffffff;
        work.highest = -0x7fffffff;
        work.winner = 0;
    }
}

// across[row][c]: the map at grid row `row` and candidate column c. Rows need it; columns interpolate as they go.
EDGE_FUNCTION void stretch_candidates(const RegionBoxes& op, Workspace& work, Lane lane) {
    const int candidates = candidate_count(op);
    for (int i = lane.index; i < op.grid * candidates; i += lane.count) {
        const int row = i / candidates, c = i % candidates;
        const float* left = work.map + row * op.grid + c / 2;
        work.across[row * kMaxCandidates + c] =
            blend(left[0], c / 2 + 1 < op.grid ? left[1] : left[0], work.weights[c]);
    }
}

EDGE_FUNCTION float column_maximum(const RegionBoxes& op, const Workspace& work, Position at) {
    const int right = at.lower + 1 < op.grid ? at.lower + 1 : at.lower;
    float above = blend(work.map[at.lower], work.map[right], at.weight);
    float best = 0.0f;
    for (int row = 1; row < op.grid; ++row) {
        const float* line = work.map + row * op.grid;
        const float below = blend(line[at.lower], line[right], at.weight);
        best = maximum(best, blend(above, below, work.weights[2 * row - 2]));
        best = maximum(best, blend(above, below, work.weights[2 * row - 1]));
        above = below;
    }
    return candidate_count(op) % 2 ? maximum(best, above) : best;
}

EDGE_FUNCTION float row_maximum(const RegionBoxes& op, const Workspace& work, Position at) {
    const float* above = work.across + at.lower * kMaxCandidates;
    const float* below = at.lower + 1 < op.grid ? above + kMaxCandidates : above;
    float best = 0.0f;
    for (int c = 0; c < candidate_count(op); ++c) best = maximum(best, blend(above[c], below[c], at.weight));
    return best;
}

EDGE_FUNCTION void find_profile(const RegionBoxes& op, Workspace& work, Lane lane, Side side) {
    int lowest = 0x7fffffff, highest = -0x7fffffff;
    for (int i = lane.index; i < op.size; i += lane.count) {
        const Position at = position(op, i);
        const float value = side == Side::kColumns ? column_maximum(op, work, at) : row_maximum(op, work, at);
        work.profile[i] = value;
        const int bits = bits_of(value);
        lowest = bits < lowest ? bits : lowest;
        highest = bits > highest ? bits : highest;
    }
    lower_to(&work.lowest, lowest);
    raise_to(&work.highest, highest);
}

// For profiles that come from elsewhere: values in [0, 1] or NaN.
EDGE_FUNCTION void take_profile(const RegionBoxes& op, Workspace& work, Lane lane, const float* profile) {
    int lowest = 0x7fffffff, highest = -0x7fffffff;
    for (int i = lane.index; i < op.size; i += lane.count) {
        const float value = work.profile[i] = read(profile + i);
        const int bits = bits_of(value);
        lowest = bits < lowest ? bits : lowest;
        highest = bits > highest ? bits : highest;
    }
    lower_to(&work.lowest, lowest);
    raise_to(&work.highest, highest);
}

EDGE_FUNCTION float score(float value, float low, float high) {
    return value >= high * (1 - kTie) ? 1.0f : (value - low) / (high - low);  // (7)
}

EDGE_FUNCTION int side_of(float score, float threshold) { return (score > threshold) - (score < threshold); }

EDGE_FUNCTION void normalise(const RegionBoxes& op, Workspace& work, Lane lane) {
    const float low = float_of(work.lowest), high = float_of(work.highest);
    for (int i = lane.index; i < op.size; i += lane.count) work.profile[i] = score(work.profile[i], low, high);
}

EDGE_FUNCTION void find_crossings(const RegionBoxes& op, Workspace& work, Lane lane) {
    const int padded = ceil_div(op.size, kWord) * kWord;
    for (int i = lane.index; i < padded; i += lane.count) {
        bool crossing = false;
        if (i + 1 < op.size) {
            const int step = side_of(work.profile[i + 1], op.threshold) - side_of(work.profile[i], op.threshold);
            crossing = step == 2 || step == -2;  // (1)
        }
        write_bit(work.crossings, i, crossing);
    }
}

// The segment that sample i lies in; begin is -1 left of the first crossing.
EDGE_FUNCTION Interval segment_of(const RegionBoxes& op, const Workspace& work, int i) {
    const int words = ceil_div(op.size, kWord);
    int word = i / kWord;
    const unsigned up_to_i = 0xffffffffu >> (kWord - 1 - i % kWord);
    unsigned left = work.crossings[word] & up_to_i, right = work.crossings[word] & ~up_to_i;
    Interval segment = {-1, op.size};
    for (int w = word;; left = work.crossings[--w]) {
        if (left) segment.begin = w * kWord + highest_bit(left);
        if (left || w == 0) break;
    }
    for (; !right && word + 1 < words;) right = work.crossings[++word];
    if (right) segment.end = word * kWord + lowest_bit(right);
    return segment;
}

// Orders segments with equal maxima: wider first (5), then the order in which they are judged (4).
EDGE_FUNCTION unsigned long long pack(const RegionBoxes& op, Interval segment, int sample) {
    const int begin = segment.begin < 0 ? 0 : segment.begin;
    const int rank = segment.begin < 0 ? 0 : segment.end == op.size ? 1 : 2 + sample;
    const unsigned key = static_cast<unsigned>((segment.end - begin) * (op.size + 4) - rank);
    return static_cast<unsigned long long>(key) << 32 | static_cast<unsigned>(begin << 16 | segment.end);
}

// Only segments that hold a maximum (a score of exactly 1) can win.
EDGE_FUNCTION void find_winner(const RegionBoxes& op, Workspace& work, Lane lane) {
    for (int i = lane.index; i < op.size; i += lane.count) {
        if (work.profile[i] == 1.0f) raise_alone(&work.winner, pack(op, segment_of(op, work, i), i));
    }
}

EDGE_FUNCTION Interval widen(Interval interval, int size) {
    const int least = ceil_div(size, 8);
    const int width = interval.end - interval.begin;
    if (width > least) return interval;
    const int pad = least - width, half = (pad + 1) / 2;
    if (interval.begin > half && size - interval.end > pad) interval = {interval.begin - half + 1, interval.end + half};
    if (interval.begin < half) interval = {0, least};
    if (size - interval.end < half) interval = {size - least + 1, size};
    return interval;  // (6)
}

EDGE_FUNCTION Interval result(const RegionBoxes& op, const Workspace& work) {
    const Interval segment = {static_cast<int>(work.winner >> 16 & 0xffff), static_cast<int>(work.winner & 0xffff)};
    const bool crossed = work.winner != 0 && (segment.begin > 0 || segment.end < op.size || work.crossings[0] & 1);
    if (!crossed) return {ceil_div(op.size, 8), ceil_div(7 * op.size, 8)};  // (2)
    return widen(segment, op.size);
}

// ----------------------------------------------------------------------------
// the block

// `each` runs a phase for every lane of the block and ends with a barrier.
template <typename Each>
EDGE_FUNCTION Interval run_block(const RegionBoxes& op, Workspace& work, Side side, const float* map, Each each) {
    each([&](Lane lane) { load(op, work, lane, map); });
    if (side == Side::kRows) each([&](Lane lane) { stretch_candidates(op, work, lane); });
    each([&](Lane lane) { find_profile(op, work, lane, side); });
    each([&](Lane lane) { normalise(op, work, lane); });
    each([&](Lane lane) { find_crossings(op, work, lane); });
    each([&](Lane lane) { find_winner(op, work, lane); });
    return result(op, work);
}

// The same from a profile of `size` samples.
template <typename Each>
EDGE_FUNCTION Interval run_bounds(const RegionBoxes& op, Workspace& work, const float* profile, Each each) {
    each([&](Lane lane) {
        if (lane.index == 0) {
            work.lowest = 0x7fffffff;
            work.highest = -0x7fffffff;
            work.winner = 0;
        }
    });
    each([&](Lane lane) { take_profile(op, work, lane, profile); });
    each([&](Lane lane) { normalise(op, work, lane); });
    each([&](Lane lane) { find_crossings(op, work, lane); });
    each([&](Lane lane) { find_winner(op, work, lane); });
    return result(op, work);
}

// ----------------------------------------------------------------------------
// kernel

#if defined(__CUDACC__)

constexpr int kRegionBoxesThreads = 512;

struct EachThread {
    template <typename Phase>
    __device__ void operator()(Phase phase) const {
        phase(Lane{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)});
        __syncthreads();
    }
};

// Grid: two blocks per region. Any block size that is a multiple of 32. FROM_PROFILES reads (regions, 2, size)
// profiles, x then y, in place of maps: for checking the second half alone.
template <bool FROM_PROFILES = false>
__device__ __forceinline__ void region_boxes_block(const RegionBoxes& op, const float* input, float* boxes) {
    __shared__ Workspace work;
    const int region = blockIdx.x / 2, side = blockIdx.x % 2;
    Interval interval;
    if constexpr (FROM_PROFILES) {
        interval = run_bounds(op, work, input + static_cast<size_t>(blockIdx.x) * op.size, EachThread());
    } else {
        const float* map = input + static_cast<size_t>(region) * op.grid * op.grid;
        interval = run_block(op, work, static_cast<Side>(side), map, EachThread());
    }
    if (threadIdx.x == 0) {
        boxes[region * 4 + side] = static_cast<float>(interval.begin);
        boxes[region * 4 + 2 + side] = static_cast<float>(interval.end);
    }
}

template <bool FROM_PROFILES = false>
__global__ void region_boxes_kernel(RegionBoxes op, const float* __restrict__ input, float* __restrict__ boxes) {
    region_boxes_block<FROM_PROFILES>(op, input, boxes);
}

#endif

}  // namespace edge
