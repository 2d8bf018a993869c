// Labels that do not flicker: two thresholds and a hold time for each class; as edge/video/steady.py.
#pragma once

#include <limits>
#include <vector>

namespace edge::tools {

class SteadyLabels {
  public:
    // high: (C,) at which labels come; they go below `low` of it, each once its score was on the other side for hold_s.
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
            const bool other = on_[c] ? scores[c] < low_[c] : scores[c] >= high_[c];
            if (!other) {
                since_[c] = NEVER;
            } else if (since_[c] == NEVER) {
                since_[c] = time_s;
            }
            if (other && (first || time_s - since_[c] >= hold_s_)) on_[c] = !on_[c], since_[c] = NEVER;
        }
        return on_;
    }

  private:
    static constexpr double NEVER = -std::numeric_limits<double>::infinity();

    const std::vector<float> high_;
    const double hold_s_;
    std::vector<float> low_;
    std::vector<bool> on_;
    std::vector<double> since_;  // when a score went to the other side
};

}  // namespace edge::tools
