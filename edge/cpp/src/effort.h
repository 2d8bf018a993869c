// Where the second pass pays, and how long it takes here; as edge/effort.py and edge/stages.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace edge {

// By rank, unless there are intervals. low, high: at efforts from 0 to 1 in equal steps: a region is looked at where
// the global score of its class lies within; low never rises, high never falls.
struct Rule {
    std::vector<double> low, high;
};

// The smallest effort at which each region is looked at: (count * regions), above 0 and at most 1. To the last bit what
// Python gives.
void find_needs(const Rule& rule, const float* global_scores, std::size_t classes, const std::int64_t* region_classes,
                std::size_t count, std::size_t regions, std::vector<double>& needs);

// How long the second stage takes here: the median of its latest calls, by the number of regions it is compiled for.
// Threads may call at once.
class Pace {
  public:
    void add(std::size_t size, double seconds);
    bool knows(std::size_t size) const;
    double of(std::size_t size) const;  // of a size it knows

  private:
    mutable std::mutex lock_;
    std::map<std::size_t, std::vector<double>> seconds_;  // the latest stands where `turns_` points to
    std::map<std::size_t, std::size_t> turns_;
};

}  // namespace edge
