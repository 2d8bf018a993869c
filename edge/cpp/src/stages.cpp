#include "stages.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace edge {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int PACE_CALLS = 3;  // of each size, before the first call with a budget

// The next size that was compiled; there is one.
std::size_t next(const std::vector<std::size_t>& sizes, std::size_t count) {
    return *std::lower_bound(sizes.begin(), sizes.end(), count);
}

// The size for the next of so many regions: the next larger; where nothing pads for free and that would add more than a
// quarter, the next smaller.
std::size_t chunk_size(const std::vector<std::size_t>& sizes, std::size_t left, bool pads) {
    const auto found = std::lower_bound(sizes.begin(), sizes.end(), left);
    if (found == sizes.end()) return sizes.back();
    return found != sizes.begin() && !pads && 4 * (*found - left) > left ? *(found - 1) : *found;
}

// As in NumPy: what is not a number stays.
float maximum(float a, float b) { return b > a || std::isnan(b) ? b : a; }

}  // namespace

Stages::Stages(const Bundle& bundle, Runners runners)
    : batches_(bundle.batches),
      sizes_(bundle.sizes),
      runners_(std::move(runners)),
      layout_(check_forms(bundle, runners_)),
      rule_(bundle.rule) {}

void Stages::run(const void* values, std::size_t count, const Limits& limits, Outputs& outputs, Looked& looked) {
    outputs.scores.resize(count * layout_.classes);
    outputs.global_scores.resize(layout_.global_scores ? count * layout_.classes : 0);
    outputs.local_scores.resize(layout_.local_scores ? count * layout_.classes : 0);
    outputs.regions.resize(count * layout_.regions * 4);
    outputs.region_classes.resize(count * layout_.regions);
    looked.assign(runners_.closer ? count * layout_.regions : 0, 0);
    Images images{values, count, next(batches_, count), nullptr};
    runners_.first->run(images, outputs);
    if (runners_.closer) look_closer(images, limits, outputs, looked);
    runners_.first->release(images);
}

// The second stage, and the maximum of both.
void Stages::look_closer(const Images& images, Limits limits, Outputs& outputs, Looked& looked) {
    std::unique_ptr<Lane> lane;
    {
        const std::lock_guard<std::mutex> guard(lock_);
        if (!idle_.empty()) lane = std::move(idle_.back()), idle_.pop_back();
    }
    if (!lane) lane = std::make_unique<Lane>();
    if (limits.deadline || (limits.effort > 0 && limits.effort < 1)) {
        const auto waited = measure_pace(images, *lane);
        if (limits.deadline) *limits.deadline += waited;
    }
    choose_regions(images, limits, outputs, *lane);
    score_regions(images, limits, *lane, outputs, looked);
    std::transform(outputs.global_scores.begin(), outputs.global_scores.end(), outputs.local_scores.begin(),
                   outputs.scores.begin(), maximum);
    const std::lock_guard<std::mutex> guard(lock_);
    idle_.push_back(std::move(lane));
}

// The regions to look at: in their order or, where time may run out, the most rewarding first.
void Stages::choose_regions(const Images& images, const Limits& limits, const Outputs& outputs, Lane& lane) const {
    const std::size_t count = images.count * layout_.regions;
    lane.looked.resize(count);
    std::iota(lane.looked.begin(), lane.looked.end(), std::size_t{0});
    if (limits.effort >= 1 && !limits.deadline) return;
    find_needs(rule_, outputs.global_scores.data(), layout_.classes, outputs.region_classes.data(),
               outputs.regions.data(), images.count, layout_.regions, lane.needs);
    const std::vector<double>& needs = lane.needs;
    if (limits.effort < 1)
        lane.looked.erase(std::remove_if(lane.looked.begin(), lane.looked.end(),
                                         [&](std::size_t region) { return needs[region] > limits.effort; }),
                          lane.looked.end());
    if (limits.deadline)
        std::stable_sort(lane.looked.begin(), lane.looked.end(),
                         [&](std::size_t a, std::size_t b) { return needs[a] < needs[b]; });
}

// The best score that each image's regions have, by class.
void Stages::score_regions(const Images& images, const Limits& limits, Lane& lane, Outputs& outputs, Looked& looked) {
    // 0 is below every score: where nothing is looked at, the first stage decides.
    std::fill(outputs.local_scores.begin(), outputs.local_scores.end(), 0.0f);
    const std::size_t classes = layout_.classes;
    for (std::size_t start = 0; start < lane.looked.size();) {
        const std::size_t left = lane.looked.size() - start, size = chunk(left, limits), given = std::min(size, left);
        if (!size) return;
        lane.boxes.resize(size * 4), lane.owner.resize(size);
        for (std::size_t i = 0; i < size; ++i) {
            // Padding repeats the last region: any valid one does.
            const std::size_t region = lane.looked[start + std::min(i, given - 1)];
            std::copy_n(outputs.regions.begin() + static_cast<std::ptrdiff_t>(4 * region), 4,
                        lane.boxes.begin() + static_cast<std::ptrdiff_t>(4 * i));
            lane.owner[i] = static_cast<std::int32_t>(region / layout_.regions);
        }
        run_closer(images, size, lane);
        for (std::size_t i = 0; i < given; ++i) {
            looked[lane.looked[start + i]] = 1;
            float* best = outputs.local_scores.data() + static_cast<std::size_t>(lane.owner[i]) * classes;
            const float* found = lane.scores.data() + i * classes;
            for (std::size_t c = 0; c < classes; ++c) best[c] = maximum(best[c], found[c]);
        }
        start += given;
    }
}

// The size of the next chunk; 0 where none fits into the time that is left.
std::size_t Stages::chunk(std::size_t left, const Limits& limits) const {
    const std::size_t size = chunk_size(sizes_, left, runners_.closer->pads());
    if (!limits.deadline) return size;
    const double seconds = std::chrono::duration<double>(*limits.deadline - Clock::now()).count();
    const auto fitting = std::find_if(sizes_.rbegin(), sizes_.rend(),
                                      [&](std::size_t each) { return each <= size && pace_.of(each) <= seconds; });
    return fitting == sizes_.rend() ? 0 : *fitting;
}

// The boxes and owners of a lane to its scores.
void Stages::run_closer(const Images& images, std::size_t size, Lane& lane) {
    lane.scores.resize(size * layout_.classes);
    const auto start = Clock::now();
    runners_.closer->run(images, lane.boxes.data(), lane.owner.data(), size, lane.scores.data());
    pace_.add(size, std::chrono::duration<double>(Clock::now() - start).count());
}

// Compiles and times the sizes that have not run yet; gives the time that took. A budget counts on the times. And where
// images decide which sizes run, the first call waits for all of them, not any later one.
Clock::duration Stages::measure_pace(const Images& images, Lane& lane) {
    const auto start = Clock::now();
    for (const std::size_t size : sizes_) {
        if (pace_.knows(size)) continue;
        lane.boxes.assign(size * 4, 0.0f), lane.owner.assign(size, 0), lane.scores.resize(size * layout_.classes);
        for (std::size_t i = 0; i < size; ++i)
            lane.boxes[4 * i + 2] = lane.boxes[4 * i + 3] = 32;  // no image is smaller
        // The first call may compile it: not counted.
        runners_.closer->run(images, lane.boxes.data(), lane.owner.data(), size, lane.scores.data());
        for (int call = 0; call < PACE_CALLS; ++call) run_closer(images, size, lane);
    }
    return Clock::now() - start;
}

}  // namespace edge
