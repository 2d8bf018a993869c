// Pillow's antialiased bilinear resize of 8-bit images, bit for bit: a triangle as wide as the step between output
// pixels, weights as 22-bit fixed-point numbers, one side after the other, rounded to bytes in between.
#include <algorithm>
#include <cmath>

#include "approximate.h"

namespace edge {
namespace {

constexpr int PRECISION = 32 - 8 - 2;  // bits of a weight: products with a byte and their sum stay in 32 bits

// For output i, weights[i * width + j] belongs to input first[i] + j, for j < count[i].
struct Weights {
    int width = 0;
    std::vector<int> first, count, weights;
};

// length: what of the input the output covers, from its start.
Weights triangle(int in, float length, int out) {
    const double step = static_cast<double>(length) / out, reach = std::max(step, 1.0);
    Weights made;
    made.width = static_cast<int>(std::ceil(reach)) * 2 + 1;
    made.first.resize(static_cast<std::size_t>(out));
    made.count.resize(static_cast<std::size_t>(out));
    made.weights.resize(static_cast<std::size_t>(out) * static_cast<std::size_t>(made.width));
    std::vector<double> exact(static_cast<std::size_t>(made.width));
    for (int i = 0; i < out; ++i) {
        const double centre = (i + 0.5) * step;
        const int first = std::max(static_cast<int>(centre - reach + 0.5), 0);
        const int count = std::min(static_cast<int>(centre + reach + 0.5), in) - first;
        double sum = 0;
        for (int j = 0; j < count; ++j) {
            const double distance = std::abs((j + first - centre + 0.5) * (1.0 / reach));
            sum += exact[static_cast<std::size_t>(j)] = distance < 1.0 ? 1.0 - distance : 0.0;
        }
        for (int j = 0; j < count; ++j) {
            const double share = sum != 0 ? exact[static_cast<std::size_t>(j)] / sum : 0.0;
            made.weights[static_cast<std::size_t>(i) * static_cast<std::size_t>(made.width) +
                         static_cast<std::size_t>(j)] = static_cast<int>(0.5 + share * (1 << PRECISION));
        }
        made.first[static_cast<std::size_t>(i)] = first;
        made.count[static_cast<std::size_t>(i)] = count;
    }
    return made;
}

std::uint8_t rounded(int sum) { return static_cast<std::uint8_t>(std::clamp(sum >> PRECISION, 0, 255)); }

// in: one row of RGB; out: (width, 3).
void resize_row(const std::uint8_t* in, const Weights& by, std::uint8_t* out) {
    for (std::size_t i = 0; i < by.first.size(); ++i, out += 3) {
        int red = 1 << (PRECISION - 1), green = red, blue = red;
        const std::uint8_t* pixel = in + 3 * static_cast<std::size_t>(by.first[i]);
        const int* weight = by.weights.data() + i * static_cast<std::size_t>(by.width);
        for (int j = 0; j < by.count[i]; ++j, pixel += 3, ++weight) {
            red += pixel[0] * *weight;
            green += pixel[1] * *weight;
            blue += pixel[2] * *weight;
        }
        out[0] = rounded(red), out[1] = rounded(green), out[2] = rounded(blue);
    }
}

// What of an image is resized, from its corner: all of it, or less where a block at its end was not whole.
struct Extent {
    float width = 0, height = 0;
};

// Rows first, then columns; where only one side changes, that one.
Image resized(const View& image, const Extent& extent, int width, int height) {
    const std::size_t row = static_cast<std::size_t>(width) * 3;
    Image out{width, height, std::vector<std::uint8_t>(row * static_cast<std::size_t>(height))};
    const bool across = image.width != width || extent.width != static_cast<float>(width);
    const bool down = image.height != height || extent.height != static_cast<float>(height);
    const Weights columns = across ? triangle(image.width, extent.width, width) : Weights{};
    const auto resized_row = [&](int y, std::uint8_t* to) {
        const std::uint8_t* from = image.pixels + static_cast<std::size_t>(y) * image.stride;
        if (across) {
            resize_row(from, columns, to);
        } else {
            std::copy_n(from, row, to);
        }
    };
    if (!down) {
        for (int y = 0; y < height; ++y) resized_row(y, out.pixels.data() + static_cast<std::size_t>(y) * row);
        return out;
    }
    const Weights rows = triangle(image.height, extent.height, height);
    // A ring of the rows one output row needs: a tall image takes no more memory than a small one.
    const std::size_t ring = static_cast<std::size_t>(rows.width);
    std::vector<std::uint8_t> kept(ring * row);
    std::vector<int> sums(row);
    int next = 0;
    for (int y = 0; y < height; ++y) {
        const int first = rows.first[static_cast<std::size_t>(y)], count = rows.count[static_cast<std::size_t>(y)];
        for (next = std::max(next, first); next < first + count; ++next)
            resized_row(next, kept.data() + (static_cast<std::size_t>(next) % ring) * row);
        std::fill(sums.begin(), sums.end(), 1 << (PRECISION - 1));
        for (int j = 0; j < count; ++j) {
            const int weight = rows.weights[static_cast<std::size_t>(y) * ring + static_cast<std::size_t>(j)];
            const std::uint8_t* from = kept.data() + (static_cast<std::size_t>(first + j) % ring) * row;
            for (std::size_t x = 0; x < row; ++x) sums[x] += from[x] * weight;
        }
        std::transform(sums.begin(), sums.end(),
                       out.pixels.begin() + static_cast<std::ptrdiff_t>(y * static_cast<std::ptrdiff_t>(row)), rounded);
    }
    return out;
}

void check(const View& image, int width, int height) {
    if (!image.pixels || image.width < 1 || image.height < 1 || image.width > 65535 || image.height > 65535 ||
        image.stride < static_cast<std::size_t>(image.width) * 3 || width < 1 || height < 1 || width > 65535 ||
        height > 65535)
        throw Error("image",
                    "Cannot resize " + std::to_string(image.width) + "×" + std::to_string(image.height) +
                        " pixels with rows of " + std::to_string(image.stride) + " bytes to " + std::to_string(width) +
                        "×" + std::to_string(height),
                    "Pass sides of 1 to 65535 and whole rows of RGB bytes");
}

Image resized_by_sides(const View& image, const Extent& extent, int width, int height) {
    // Pillow 13 shrinks what is tall and narrow by columns first: fewer pixels are left for the second pass.
    const std::int64_t w = image.width, h = image.height;
    if (h > height && w != width && h * width + std::int64_t{width} * height > 2 * w * height) {
        const Image lower = resized(image, {static_cast<float>(image.width), extent.height}, image.width, height);
        return resized(lower.view(), {extent.width, static_cast<float>(height)}, width, height);
    }
    return resized(image, extent, width, height);
}

// The mean of every block of across × down pixels, rounded; blocks at the ends may be smaller. Sum holds down bytes.
template <typename Sum>
Image reduced(const View& image, int across, int down) {
    const int width = (image.width + across - 1) / across, height = (image.height + down - 1) / down;
    const std::size_t row = static_cast<std::size_t>(image.width) * 3;
    Image out{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height) * 3)};
    std::vector<Sum> sums(row);
    std::uint8_t* to = out.pixels.data();
    for (int y = 0; y < image.height; y += down) {
        const int rows = std::min(down, image.height - y);
        const std::uint8_t* from = image.pixels + static_cast<std::size_t>(y) * image.stride;
        std::copy_n(from, row, sums.data());
        for (int j = 1; j < rows; ++j) {
            from += image.stride;
            for (std::size_t x = 0; x < row; ++x) sums[x] = static_cast<Sum>(sums[x] + from[x]);
        }
        const Sum* sum = sums.data();
        for (int x = 0; x < image.width; x += across) {
            const int columns = std::min(across, image.width - x);
            const auto count = static_cast<std::uint32_t>(rows * columns);
            const std::uint32_t share = (1u << 24) / count;
            std::uint32_t red = count / 2, green = red, blue = red;
            for (int i = 0; i < columns; ++i, sum += 3) red += sum[0], green += sum[1], blue += sum[2];
            *to++ = static_cast<std::uint8_t>((red * share) >> 24);
            *to++ = static_cast<std::uint8_t>((green * share) >> 24);
            *to++ = static_cast<std::uint8_t>((blue * share) >> 24);
        }
    }
    return out;
}

}  // namespace

Image resize(const View& image, int width, int height) {
    check(image, width, height);
    return resized_by_sides(image, {static_cast<float>(image.width), static_cast<float>(image.height)}, width, height);
}

Image resize_approximately(const View& image, int width, int height) {
    check(image, width, height);
    const int across = std::max(1, image.width / (GAP * width)), down = std::max(1, image.height / (GAP * height));
    if (across == 1 && down == 1) return resize(image, width, height);
    const Image smaller =
        down < 256 ? reduced<std::uint16_t>(image, across, down) : reduced<std::uint32_t>(image, across, down);
    const Extent extent{static_cast<float>(static_cast<double>(image.width) / across),
                        static_cast<float>(static_cast<double>(image.height) / down)};
    return resized_by_sides(smaller.view(), extent, width, height);
}

}  // namespace edge
