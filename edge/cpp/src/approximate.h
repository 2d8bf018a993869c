// Approximate decoding and resizing of large photos, as in edge/image.py.
#pragma once

#include <filesystem>

#include "edge/engine.hpp"

namespace edge {

constexpr int GAP = 2;  // so many pixels for one of the result are left to the filter

// Pillow's resize with that reducing gap, bit for bit: blocks are averaged before the filter.
Image resize_approximately(const View& image, int width, int height);

// width, height: of the upright photograph, before it was reduced.
struct Photo {
    Image image;
    int width = 0, height = 0;
};

// As `decode`; a JPEG at 1/2, 1/4 or 1/8 of its scale where GAP * side pixels are left of both its sides. side 0:
// whole.
Photo decode_photo(const std::filesystem::path& file, int side);

}  // namespace edge
