// RegionBoxes on the CPU: the ground truth that every version is checked against.
//
// maps is (N, grid, grid): class maps after the sigmoid, one per region
// boxes is (N, 4): x1 y1 x2 y2 in pixels of the size x size model input, x2/y2 exclusive
//
// Region localisation of MCAR (Gao and Zhou, "Learning to Discover Multi-Class Attentional Regions", TIP 2021): the map
// is stretched to size x size (bilinear, aligned corners), its row and column maxima become two profiles, and each
// profile gives one interval. The quirks of the published code are kept; they are numbered (1) to (6) here. Knows
// nothing of CUDA. One rule is ours: (7) samples within kTie of a profile's maximum count as the maximum, since maps
// saturate near 1.0 and which of two peaks is higher would be up to the last bit.
#pragma once

#include <algorithm>  // defines: std::min, std::fill, std::max_element, std::min_element, std::any_of
#include <cmath>      // defines: std::fma, std::isnan
#include <cstdlib>    // defines: std::abs
#include <vector>

namespace edge::reference {

constexpr float kTie = 1.0f / (1 << 18);  // of the maximum

struct Interval {
    int begin, end;  // end exclusive
};

inline int sign(float value) { return (value > 0) - (value < 0); }

// A box narrower than an eighth of the input is widened, by three tests in a row, later ones seeing what earlier ones
// did.
inline Interval widen(Interval interval, int length) {
    const int least = (length + 7) / 8;
    const int width = interval.end - interval.begin;
    if (width > least) return interval;
    const int pad = least - width, half = (pad + 1) / 2;
    if (interval.begin > half && length - interval.end > pad) {
        interval = {interval.begin - (half - 1), interval.end + half};
    }
    if (interval.begin < half) interval = {0, least};
    if (length - interval.end < half) interval = {length - least + 1, length};
    return interval;
}

// profile is (length), raw maxima in [0, 1]; the interval of its highest (on ties widest) segment between threshold
// crossings.
inline Interval bounds(const float* profile, int length, float threshold) {
    const Interval window = {(length + 7) / 8, (7 * length + 7) / 8};
    if (std::any_of(profile, profile + length, [](float value) { return std::isnan(value); })) return window;  // (2)
    const float most = *std::max_element(profile, profile + length);
    std::vector<float> scores(profile, profile + length);
    for (float& score : scores) score = score < most * (1 - kTie) ? score : most;  // (7)
    const float least = *std::min_element(scores.begin(), scores.end());
    for (float& score : scores) score = most == least ? score / most : (score - least) / (most - least);

    // (1) A sample that equals the threshold hides the crossing: two steps of one instead of one step of two.
    std::vector<int> crossings;
    for (int i = 0; i + 1 < length; ++i) {
        if (std::abs(sign(scores[i + 1] - threshold) - sign(scores[i] - threshold)) == 2) crossings.push_back(i);
    }
    // (2) No crossing, a flat profile and a NaN anywhere (then all scores are NaN) end in the central window.
    if (crossings.empty()) return window;

    // (3) A segment starts at the last sample of its left neighbour; (4) the outer segments are judged first.
    std::vector<Interval> segments;
    if (crossings.front() > 0) segments.push_back({0, crossings.front()});
    segments.push_back({crossings.back(), length});
    for (size_t i = 0; i + 1 < crossings.size(); ++i) segments.push_back({crossings[i], crossings[i + 1]});

    // (5) Segments below the threshold compete too; of equal maxima the wider wins, of equal widths the earlier.
    Interval winner = {0, 0};
    float best = 0;
    for (const Interval& segment : segments) {
        const float peak =
            *std::max_element(&scores[segment.begin], &scores[segment.begin] + segment.end - segment.begin);
        const bool wider = segment.end - segment.begin > winner.end - winner.begin;
        if (peak > best || (peak == best && wider)) {
            best = peak;
            winner = segment;
        }
    }
    return widen(winner, length);  // (6)
}

// A sample's place on the grid: the point before it and the weight of the point behind.
struct Place {
    int before, behind;
    float weight;
};

// Rounded as torch's upsample_bilinear2d rounds: profiles are often linear between their extremes, so that a sample
// lies exactly on the threshold in real arithmetic and the rounding decides the crossing.
inline Place place(int sample, int grid, int size) {
    const float step = static_cast<float>(grid - 1) / static_cast<float>(size - 1);
    volatile float position = step * static_cast<float>(sample);  // volatile: rounded before it is used
    const int before = std::min(static_cast<int>(position), grid - 1);
    return {before, std::min(before + 1, grid - 1), position - static_cast<float>(before)};
}

inline float blend(float a, float b, float weight) {
    volatile float second = weight * b;
    return std::fma(1.0f - weight, a, second);
}

// Row and column maxima of one map, every sample of the stretched map visited: xs and ys are (size).
inline void profiles(const float* map, int grid, int size, float* xs, float* ys) {
    std::fill(xs, xs + size, -1.0f);
    std::fill(ys, ys + size, -1.0f);
    for (int row = 0; row < size; ++row) {
        const Place y = place(row, grid, size);
        for (int column = 0; column < size; ++column) {
            const Place x = place(column, grid, size);
            const float above = blend(map[y.before * grid + x.before], map[y.before * grid + x.behind], x.weight);
            const float below = blend(map[y.behind * grid + x.before], map[y.behind * grid + x.behind], x.weight);
            const float value = blend(above, below, y.weight);
            // A NaN stays.
            if (value > xs[column] || std::isnan(value)) xs[column] = value;
            if (value > ys[row] || std::isnan(value)) ys[row] = value;
        }
    }
}

inline void region_boxes(const float* maps, int count, int grid, int size, float threshold, float* boxes) {
    std::vector<float> xs(size), ys(size);
    for (int i = 0; i < count; ++i) {
        profiles(maps + i * grid * grid, grid, size, xs.data(), ys.data());
        const Interval x = bounds(xs.data(), size, threshold);
        const Interval y = bounds(ys.data(), size, threshold);
        const float box[4] = {static_cast<float>(x.begin), static_cast<float>(y.begin), static_cast<float>(x.end),
                              static_cast<float>(y.end)};
        std::copy(box, box + 4, boxes + i * 4);
    }
}

}  // namespace edge::reference
