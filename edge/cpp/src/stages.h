// How the stages of an engine give one answer, whatever backend runs them; as edge/stages.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "runner.h"

namespace edge {

class Stages {
  public:
    // Throws Error where the engine has another form than its manifest describes.
    Stages(const Bundle& bundle, Runners runners);

    const Layout& layout() const { return layout_; }

    // values: (count, 3, S, S), count up to the largest batch. Outputs are resized for them; threads may call at once.
    void run(const float* values, std::size_t count, Outputs& outputs);

  private:
    // What one call needs between the stages; as many are made as threads ever called at once.
    struct Lane {
        std::vector<std::size_t> looked;  // the regions that are looked at, counted through the batch
        std::vector<float> boxes;         // (size, 4)
        std::vector<std::int32_t> owner;  // (size,)
        std::vector<float> scores;        // (size, C)
    };

    void look_closer(const Images& images, Outputs& outputs);
    void score_regions(const Images& images, Lane& lane, Outputs& outputs);

    const std::vector<std::size_t> batches_, sizes_;
    const Runners runners_;
    const Layout layout_;
    std::mutex lock_;
    std::vector<std::unique_ptr<Lane>> idle_;
};

}  // namespace edge
