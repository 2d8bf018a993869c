// A photograph from outside: pixels or an Error, whatever the bytes. Small results go through the resize too.
#include <cstdint>

#include "edge/engine.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    try {
        const edge::Image image = edge::decode(data, bytes);
        if (image.pixels.size() != static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height) * 3)
            __builtin_trap();
        if (image.pixels.size() < 1u << 20) edge::resize(image.view(), 64, 64);
    } catch (const edge::Error&) {
    }
    return 0;
}
