// Labels that do not flicker: two thresholds and a hold time for each class; as edge/video/steady.py.
#pragma once

#include <limits>
#include <vector>

namespace edge::tools {

class SteadyLabels {
  public:
    // high: (C,) at which labels come; they go below `low` of it. Each changes when its score has passed the one
    // threshold, and for hold_s has not gone back past the other.
    explicit SteadyLabels(const std::vector<float>& high, float low = 0.7f, double hold_s = 0.5)
        : high_(high), hold_s_(hold_s) {
        for (const float each : high) low_.push_back(each * low);
    }

    // scores: (C,) of a frame; what it gives: (C,) the labels that it has.
    const std::vector<bool>& update(const std::vector<float>& scores, double time_s) {
        const bool first = on_.empty();
        on_.resize(high_.size());
        since_.resize(high_.size(), NEVER);
        for (std::size_t c = 0; c < high_.size(); ++c) {
            const bool below = scores[c] < low_[c], above = scores[c] >= high_[c];
            if (on_[c] ? above : below)
                since_[c] = NEVER;
            else if ((on_[c] ? below : above) && since_[c] == NEVER)
                since_[c] = time_s;
            const bool held = since_[c] != NEVER && time_s - since_[c] >= hold_s_;
            if (held || (first && above)) on_[c] = !on_[c], since_[c] = NEVER;
        }
        return on_;
    }

  private:
    static constexpr double NEVER = -std::numeric_limits<double>::infinity();

    const std::vector<float> high_;
    const double hold_s_;
    std::vector<float> low_;
    std::vector<bool> on_;
    std::vector<double> since_;  // when a score passed the threshold of a change
};

}  // namespace edge::tools
