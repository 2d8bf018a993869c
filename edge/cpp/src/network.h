// What runs an engine. One file per runtime, chosen when the library is configured.
#pragma once

#include <cstddef>
#include <memory>

#include "bundle.h"

namespace edge {

// What a network gives per image: C classes, K regions (0 for a model without), which scores.
struct Form {
    std::size_t classes = 0, regions = 0;
    bool global_scores = false, local_scores = false;
};

class Network {
  public:
    virtual ~Network() = default;
    virtual Form form() const = 0;

    // images: (count, 3, S, S); the engine runs for `batch` >= count, one of the bundle's. Outputs hold `count` rows,
    // and have been resized for them. Any number of threads may call.
    virtual void run(const float* images, std::size_t count, std::size_t batch, Outputs& outputs) = 0;
};

// What every network says of an engine that has another form than its manifest describes.
[[noreturn]] inline void refuse_form(const Bundle& bundle, const std::string& found) {
    throw Error("load", "The engine of " + bundle.path.string() + " is not what its manifest describes: " + found,
                bundle.rebuild());
}

// Each refuses, before it reads the engine, a bundle that does not fit this machine.
std::unique_ptr<Network> open_openvino(const Bundle& bundle, const Contents& contents);
std::unique_ptr<Network> open_tensorrt(const Bundle& bundle, const Contents& contents);

}  // namespace edge
