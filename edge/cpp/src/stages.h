// How the stages of an engine give one answer, whatever backend runs them; as edge/stages.py.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "runner.h"

namespace edge {

using Looked = std::vector<std::uint8_t>;

// What one call may spend on the second stage: no chunk of it starts that would end after the deadline.
struct Limits {
    double effort = 1;
    std::optional<std::chrono::steady_clock::time_point> deadline;
};

class Stages {
  public:
    // Throws Error where the engine has another form than its manifest describes.
    Stages(const Bundle& bundle, Runners runners);

    const Layout& layout() const { return layout_; }

    // values: (count, 3, S, S), count up to the largest batch. Outputs are resized for them, as is looked, (count, K):
    // 1 where the second stage looked at a region; empty where there is none. Threads may call at once.
    void run(const void* values, std::size_t count, const Limits& limits, Outputs& outputs, Looked& looked);

  private:
    // What one call needs between the stages; as many are made as threads ever called at once.
    struct Lane {
        std::vector<double> needs;        // (B * K) the smallest effort of each region
        std::vector<std::size_t> looked;  // the regions that are looked at, counted through the batch
        std::vector<float> boxes;         // (size, 4)
        std::vector<std::int32_t> owner;  // (size,)
        std::vector<float> scores;        // (size, C)
    };

    void look_closer(const Images& images, Limits limits, Outputs& outputs, Looked& looked);
    void choose_regions(const Images& images, const Limits& limits, const Outputs& outputs, Lane& lane) const;
    void score_regions(const Images& images, const Limits& limits, Lane& lane, Outputs& outputs, Looked& looked);
    std::size_t chunk(std::size_t left, const Limits& limits) const;
    void run_closer(const Images& images, std::size_t size, Lane& lane);
    std::chrono::steady_clock::duration measure_pace(const Images& images, Lane& lane);

    const std::vector<std::size_t> batches_, sizes_;
    const Runners runners_;
    const Layout layout_;
    const Rule rule_;
    Pace pace_;
    std::mutex lock_;
    std::vector<std::unique_ptr<Lane>> idle_;
};

}  // namespace edge
