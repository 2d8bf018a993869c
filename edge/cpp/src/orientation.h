// Which way up a photograph is: by its Exif, else by its XMP. Orientations are 1 (upright) to 8, as Exif counts them.
#pragma once

#include <string_view>

#include "edge/engine.hpp"

namespace edge {

constexpr int NONE = 0;  // no orientation is given here; another place may give one

// The orientation in Exif data (Exif 2.3, section 4.6), 1 where that is damaged. What counts as damaged is as in
// Pillow.
int exif_orientation(const std::uint8_t* data, std::size_t bytes);

// Of Exif as ImageMagick wrote it into a text before PNG had a chunk for it: three lines of heading, then hex digits.
int profile_orientation(std::string_view text, std::vector<std::uint8_t>& exif);

// The orientation in an XMP packet, as an attribute or an element. As Pillow: the first that looks like one.
int xmp_orientation(std::string_view packet);

// Upright.
Image turned(Image image, int orientation);

}  // namespace edge
