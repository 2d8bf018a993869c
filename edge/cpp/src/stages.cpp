#include "stages.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace edge {
namespace {

// The next size that was compiled; there is one.
std::size_t next(const std::vector<std::size_t>& sizes, std::size_t count) {
    return *std::lower_bound(sizes.begin(), sizes.end(), count);
}

// As in NumPy: what is not a number stays.
float maximum(float a, float b) { return b > a || std::isnan(b) ? b : a; }

}  // namespace

Stages::Stages(const Bundle& bundle, Runners runners)
    : batches_(bundle.batches),
      sizes_(bundle.sizes),
      runners_(std::move(runners)),
      layout_(check_forms(bundle, runners_)) {}

void Stages::run(const float* values, std::size_t count, Outputs& outputs) {
    outputs.scores.resize(count * layout_.classes);
    outputs.global_scores.resize(layout_.global_scores ? count * layout_.classes : 0);
    outputs.local_scores.resize(layout_.local_scores ? count * layout_.classes : 0);
    outputs.regions.resize(count * layout_.regions * 4);
    outputs.region_classes.resize(count * layout_.regions);
    Images images{values, count, next(batches_, count), nullptr};
    runners_.first->run(images, outputs);
    if (runners_.closer) look_closer(images, outputs);
    runners_.first->release(images);
}

// The second stage, and the maximum of both.
void Stages::look_closer(const Images& images, Outputs& outputs) {
    std::unique_ptr<Lane> lane;
    {
        const std::lock_guard<std::mutex> guard(lock_);
        if (!idle_.empty()) lane = std::move(idle_.back()), idle_.pop_back();
    }
    if (!lane) lane = std::make_unique<Lane>();
    lane->looked.resize(images.count * layout_.regions);
    std::iota(lane->looked.begin(), lane->looked.end(), std::size_t{0});
    score_regions(images, *lane, outputs);
    std::transform(outputs.global_scores.begin(), outputs.global_scores.end(), outputs.local_scores.begin(),
                   outputs.scores.begin(), maximum);
    const std::lock_guard<std::mutex> guard(lock_);
    idle_.push_back(std::move(lane));
}

// The best score that each image's regions have, by class.
void Stages::score_regions(const Images& images, Lane& lane, Outputs& outputs) {
    // 0 is below every score: where nothing is looked at, the first stage decides.
    std::fill(outputs.local_scores.begin(), outputs.local_scores.end(), 0.0f);
    const std::size_t most = sizes_.back(), classes = layout_.classes;
    for (std::size_t start = 0; start < lane.looked.size(); start += most) {
        const std::size_t given = std::min(most, lane.looked.size() - start), size = next(sizes_, given);
        lane.boxes.resize(size * 4), lane.owner.resize(size), lane.scores.resize(size * classes);
        for (std::size_t i = 0; i < size; ++i) {
            // Padding repeats the last region: any valid one does.
            const std::size_t region = lane.looked[start + std::min(i, given - 1)];
            std::copy_n(outputs.regions.begin() + static_cast<std::ptrdiff_t>(4 * region), 4,
                        lane.boxes.begin() + static_cast<std::ptrdiff_t>(4 * i));
            lane.owner[i] = static_cast<std::int32_t>(region / layout_.regions);
        }
        runners_.closer->run(images, lane.boxes.data(), lane.owner.data(), size, lane.scores.data());
        for (std::size_t i = 0; i < given; ++i) {
            float* best = outputs.local_scores.data() + static_cast<std::size_t>(lane.owner[i]) * classes;
            const float* found = lane.scores.data() + i * classes;
            for (std::size_t c = 0; c < classes; ++c) best[c] = maximum(best[c], found[c]);
        }
    }
}

}  // namespace edge
