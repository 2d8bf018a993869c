#include "effort.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace edge {
namespace {

constexpr std::size_t PACE_CALLS = 3, PACE_KEPT = 25;

// The smallest effort at which a bound, given at equal steps and never falling, is at or above a score; 1 where none
// is.
double reached(double score, const std::vector<double>& bounds, double sign) {
    // NaN is below nothing, and goes last as in NumPy.
    const auto first = std::find_if(bounds.begin(), bounds.end(), [&](double bound) { return sign * bound >= score; });
    if (first == bounds.begin()) return 0;
    if (first == bounds.end()) return 1;
    const double before = sign * *(first - 1), after = sign * *first;
    const double part = (score - before) / (after - before);
    return (static_cast<double>(first - bounds.begin() - 1) + part) / static_cast<double>(bounds.size() - 1);
}

// The smallest effort whose interval holds a score.
double within(double score, const Intervals& intervals) {
    return std::max(reached(score, intervals.high, 1), reached(-score, intervals.low, -1));
}

double area(const float* box) {
    const double width = double{box[2]} - box[0], height = double{box[3]} - box[1];
    return std::max(width, 0.0) * std::max(height, 0.0);
}

// Whether a region shows the second stage little that is new: its box nearly repeats a better-ranked one, or is large.
bool redundant(const Rule& rule, const float* boxes, std::size_t rank) {
    const float* mine = boxes + 4 * rank;
    if (rule.max_area >= 0 && area(mine) > rule.max_area) return true;
    if (rule.max_overlap < 0) return false;
    for (const float* other = boxes; other != mine; other += 4) {
        const double width = double{std::min(mine[2], other[2])} - std::max(mine[0], other[0]);
        const double height = double{std::min(mine[3], other[3])} - std::max(mine[1], other[1]);
        const double both = std::max(width, 0.0) * std::max(height, 0.0);
        const double all = area(mine) + area(other) - both;
        if (both / (all > 0 ? all : 1) > rule.max_overlap) return true;
    }
    return false;
}

}  // namespace

void find_needs(const Rule& rule, const float* global_scores, std::size_t classes, const std::int64_t* region_classes,
                const float* boxes, std::size_t count, std::size_t regions, std::vector<double>& needs) {
    needs.resize(count * regions);
    for (std::size_t i = 0; i < count * regions; ++i) {
        const std::size_t image = i / regions, rank = i % regions;
        if (rule.first.low.empty()) {
            // The first round(effort * K), halves to even: of an even rank, half a region is not yet one.
            const double need = (static_cast<double>(rank) + 0.5) / static_cast<double>(regions);
            needs[i] = rank % 2 ? need : std::nextafter(need, 1.0);
            continue;
        }
        const auto last = static_cast<std::int64_t>(classes) - 1;
        const auto c = static_cast<std::size_t>(std::clamp<std::int64_t>(region_classes[i], 0, last));
        const double score = global_scores[image * classes + c];
        const bool late = redundant(rule, boxes + 4 * image * regions, rank);
        needs[i] = std::max(within(score, late ? rule.redundant : rule.first), std::numeric_limits<double>::min());
    }
}

void Pace::add(std::size_t size, double seconds) {
    const std::lock_guard<std::mutex> guard(lock_);
    std::vector<double>& kept = seconds_[size];
    if (kept.size() < PACE_KEPT)
        kept.push_back(seconds);
    else
        kept[turns_[size]++ % PACE_KEPT] = seconds;
}

bool Pace::knows(std::size_t size) const {
    const std::lock_guard<std::mutex> guard(lock_);
    const auto found = seconds_.find(size);
    return found != seconds_.end() && found->second.size() >= PACE_CALLS;
}

double Pace::of(std::size_t size) const {
    const std::lock_guard<std::mutex> guard(lock_);
    std::vector<double> values = seconds_.at(size);
    const std::size_t middle = values.size() / 2;
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(middle), values.end());
    if (values.size() % 2) return values[middle];
    return (values[middle] + *std::max_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(middle))) /
           2;
}

}  // namespace edge
