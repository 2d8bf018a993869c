// Version 6 of RegionBoxes (ladder.cu): four phases instead of five (columns) or six (rows).
//
// maps, boxes and a block's interval: see region_boxes.cuh, whose rounding is kept to the bit
//
// What a sample's maximum is taken over lies in lines of four floats at a time: a warp's samples are nearly all in one
// grid interval and read the same ones, so that reads, not sums, are what takes time. Rows are stretched on the way
// from global memory. Scores go straight into bit masks, of crossings and of peaks, and one warp judges those.
#pragma once

#include "region_boxes/region_boxes.cuh"  // defines: RegionBoxes, Side, Lane, position, blend, score, segment_of

namespace edge {

struct alignas(16) Four {
    float values[4];
};

struct Lines {
    Four lines[kMaxGrid][kMaxCandidates / 4 + 1];  // columns: [column] grid rows; rows: [row] candidates
    Four weights[kMaxCandidates / 4];              // columns only, of candidates
};

struct LineWorkspace {
    Lines lines;
    Workspace work;  // its map, across and weights are not used
    unsigned peaks[kMaxSize / kWord];
};

EDGE_FUNCTION float candidate_weight(const RegionBoxes& op, int candidate) {
    return position(op, candidate_sample(op, candidate)).weight;
}

// Candidates per line, filled up to whole fours with the first one, which changes no maximum.
EDGE_FUNCTION int padded_candidates(const RegionBoxes& op) { return ceil_div(candidate_count(op), 4) * 4; }

EDGE_FUNCTION void load_columns(const RegionBoxes& op, LineWorkspace& work, Lane lane, const float* map) {
    EDGE_ROLL
    for (int i = lane.index; i < op.grid * op.grid; i += lane.count) {
        const int row = i / op.grid, column = i % op.grid;
        work.lines.lines[column][row / 4].values[row % 4] = read(map + i);
    }
    // By the last threads, which have no pixel to wait for.
    EDGE_ROLL
    for (int c = lane.count - 1 - lane.index; c < candidate_count(op); c += lane.count) {
        work.lines.weights[c / 4].values[c % 4] = candidate_weight(op, c);
    }
}

EDGE_FUNCTION void load_rows(const RegionBoxes& op, LineWorkspace& work, Lane lane, const float* map) {
    const int candidates = candidate_count(op), padded = padded_candidates(op);
    EDGE_ROLL
    for (int i = lane.index; i < op.grid * padded; i += lane.count) {
        const int row = i / padded, place = i % padded, c = place < candidates ? place : 0;
        const float* left = map + row * op.grid + c / 2;
        const float a = read(left), b = read(c / 2 + 1 < op.grid ? left + 1 : left);
        work.lines.lines[row][place / 4].values[place % 4] = blend(a, b, candidate_weight(op, c));
    }
}

EDGE_FUNCTION void load_lines(const RegionBoxes& op, LineWorkspace& work, Lane lane, Side side, const float* map) {
    if (side == Side::kColumns) {
        load_columns(op, work, lane, map);
    } else {
        load_rows(op, work, lane, map);
    }
    if (lane.index == 0) {
        work.work.lowest = 0x7fffffff;
        work.work.highest = -0x7fffffff;
        work.work.winner = 0;
    }
}

EDGE_FUNCTION float column_maximum(const RegionBoxes& op, const Lines& lines, Position at) {
    const Four* left = lines.lines[at.lower];
    const Four* right = lines.lines[at.lower + 1 < op.grid ? at.lower + 1 : at.lower];
    float above = blend(left[0].values[0], right[0].values[0], at.weight), best = 0.0f;
    for (int four = 0; 4 * four < op.grid; ++four) {
        const Four a = left[four], b = right[four];
        const Four before = lines.weights[four > 0 ? 2 * four - 1 : 0], here = lines.weights[2 * four];
        const Four behind = lines.weights[2 * four + 1 < kMaxCandidates / 4 ? 2 * four + 1 : 0];
        // Between a row and the one before it lie candidates 2 * row - 2 and 2 * row - 1.
        const float weights[8] = {before.values[2], before.values[3], here.values[0],   here.values[1],
                                  here.values[2],   here.values[3],   behind.values[0], behind.values[1]};
        EDGE_UNROLL
        for (int j = 0; j < 4; ++j) {
            const int row = 4 * four + j;
            if (row == 0 || row >= op.grid) continue;
            const float below = blend(a.values[j], b.values[j], at.weight);
            best = maximum(best, blend(above, below, weights[2 * j]));
            best = maximum(best, blend(above, below, weights[2 * j + 1]));
            above = below;
        }
    }
    return candidate_count(op) % 2 ? maximum(best, above) : best;
}

EDGE_FUNCTION float row_maximum(const RegionBoxes& op, const Lines& lines, Position at) {
    const Four* above = lines.lines[at.lower];
    const Four* below = lines.lines[at.lower + 1 < op.grid ? at.lower + 1 : at.lower];
    const int candidates = candidate_count(op);
    float best = 0.0f;
    Four a = above[0], b = below[0];
    for (int four = 0; 4 * four < candidates; ++four) {
        const Four next_a = above[four + 1], next_b = below[four + 1];  // a line has one four more than it needs
        EDGE_UNROLL
        for (int j = 0; j < 4; ++j) best = maximum(best, blend(a.values[j], b.values[j], at.weight));
        a = next_a, b = next_b;
    }
    return best;
}

EDGE_FUNCTION void find_profile(const RegionBoxes& op, LineWorkspace& work, Lane lane, Side side) {
    int lowest = 0x7fffffff, highest = -0x7fffffff;
    EDGE_ROLL
    for (int i = lane.index; i < op.size; i += lane.count) {
        const Position at = position(op, i);
        const float value =
            side == Side::kColumns ? column_maximum(op, work.lines, at) : row_maximum(op, work.lines, at);
        work.work.profile[i] = value;
        const int bits = bits_of(value);
        lowest = bits < lowest ? bits : lowest;
        highest = bits > highest ? bits : highest;
    }
    lower_to(&work.work.lowest, lowest);
    raise_to(&work.work.highest, highest);
}

// Scores, of a sample and of the one behind it, into bits.
EDGE_FUNCTION void mark(const RegionBoxes& op, LineWorkspace& work, Lane lane) {
    const float low = float_of(work.work.lowest), high = float_of(work.work.highest);
    const int padded = ceil_div(op.size, kWord) * kWord;
    EDGE_ROLL
    for (int i = lane.index; i < padded; i += lane.count) {
        bool crossing = false, peak = false;
        if (i < op.size) {
            const float own = score(work.work.profile[i], low, high);
            peak = own == 1.0f;
            if (i + 1 < op.size) {
                const float next = score(work.work.profile[i + 1], low, high);
                const int step = side_of(next, op.threshold) - side_of(own, op.threshold);
                crossing = step == 2 || step == -2;  // (1)
            }
        }
        write_bit(work.work.crossings, i, crossing);
        write_bit(work.peaks, i, peak);
    }
}

// A lane takes a word of peaks. Of the peaks in one segment the first decides.
EDGE_FUNCTION void judge_peaks(const RegionBoxes& op, LineWorkspace& work, Lane lane) {
    EDGE_ROLL
    for (int word = lane.index; word < ceil_div(op.size, kWord); word += lane.count) {
        for (unsigned peaks = work.peaks[word]; peaks != 0;) {
            const int sample = word * kWord + lowest_bit(peaks);
            const Interval segment = segment_of(op, work.work, sample);
            raise_alone(&work.work.winner, pack(op, segment, sample));
            if (segment.end >= (word + 1) * kWord) break;
            peaks &= ~0u << segment.end % kWord;
        }
    }
}

// As run_block.
template <typename Each>
EDGE_FUNCTION Interval run_lines(const RegionBoxes& op, LineWorkspace& work, Side side, const float* map, Each each) {
    each([&](Lane lane) { load_lines(op, work, lane, side, map); });
    each([&](Lane lane) { find_profile(op, work, lane, side); });
    each([&](Lane lane) { mark(op, work, lane); });
    each([&](Lane lane) { judge_peaks(op, work, lane); });
    return result(op, work.work);
}

#if defined(__CUDACC__)

// As region_boxes_kernel.
template <int THREADS>
__global__ void __launch_bounds__(THREADS, 1)
    region_boxes_lines(RegionBoxes op, const float* __restrict__ maps, float* __restrict__ boxes) {
    __shared__ LineWorkspace work;
    const int region = blockIdx.x / 2, side = blockIdx.x % 2;
    const float* map = maps + static_cast<size_t>(region) * op.grid * op.grid;
    const Interval interval = run_lines(op, work, static_cast<Side>(side), map, EachThread());
    if (threadIdx.x == 0) {
        boxes[region * 4 + side] = static_cast<float>(interval.begin);
        boxes[region * 4 + 2 + side] = static_cast<float>(interval.end);
    }
}

#endif

}  // namespace edge
