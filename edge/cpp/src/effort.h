// Where the second pass pays, and how long it takes here; as edge/effort.py and edge/stages.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace edge {

// At efforts from 0 to 1 in equal steps: a region is looked at where the global score of its class lies within; low
// never rises, high never falls.
struct Intervals {
    std::vector<double> low, high;
};

// By rank, unless there are intervals. A region is redundant if its IoU with a better-ranked one is above max_overlap,
// or its box above max_area pixels; negative: no such limit.
struct Rule {
    Intervals first, redundant;
    double max_overlap = -1, max_area = -1;
};

// The smallest effort at which each region is looked at: (count * regions), above 0 and at most 1. To the last bit what
// Python gives. boxes: (count * regions * 4), x1 y1 x2 y2.
void find_needs(const Rule& rule, const float* global_scores, std::size_t classes, const std::int64_t* region_classes,
                const float* boxes, std::size_t count, std::size_t regions, std::vector<double>& needs);

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
