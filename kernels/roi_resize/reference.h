// RoiResize on the CPU: the ground truth that every version is checked against.
//
// image is (images, 3, height, width), boxes is (crops, 4): x1 y1 x2 y2 in pixels, x2/y2 exclusive
// owner is (crops), the image of each box, clamped to those there are; or null: crops / images boxes of each in turn
// out is (crops, 3, size, size)
//
// Bilinear with aligned corners (Gao and Zhou, "Learning to Discover Multi-Class Attentional Regions", TIP 2021):
// output row i samples source row y1 + i * (y2 - 1 - y1) / (size - 1). Everything is computed in double, in the
// plainest form, so that differences are the kernel's. Knows nothing of CUDA.
#pragma once

#include <algorithm>  // defines: std::min, std::max
#include <cmath>      // defines: std::floor, std::isnan

namespace edge::reference {

inline double clamp(double value, double low, double high) {
    return std::isnan(value) ? low : std::min(std::max(value, low), high);
}

// One sample of one channel plane of height x width; box is clamped to the plane and never empty.
inline double roi_sample(const float* plane, int height, int width, const float* box, int size, int row, int column) {
    const double x1 = clamp(box[0], 0, width - 1), x2 = clamp(box[2], x1 + 1, width);
    const double y1 = clamp(box[1], 0, height - 1), y2 = clamp(box[3], y1 + 1, height);
    const double intervals = std::max(size - 1, 1);
    const double x = x1 + column * (x2 - 1 - x1) / intervals;
    const double y = y1 + row * (y2 - 1 - y1) / intervals;
    const int left = static_cast<int>(std::floor(x)), upper = static_cast<int>(std::floor(y));
    const int right = std::min(left + 1, width - 1), lower = std::min(upper + 1, height - 1);
    const double across = x - left, down = y - upper;
    const double top = (1 - across) * plane[upper * width + left] + across * plane[upper * width + right];
    const double bottom = (1 - across) * plane[lower * width + left] + across * plane[lower * width + right];
    return (1 - down) * top + down * bottom;
}

inline void roi_resize(const float* image, const float* boxes, const int* owner, int images, int crops, int height,
                       int width, int size, double* out) {
    for (int crop = 0; crop < crops; ++crop) {
        const int own = owner ? std::min(std::max(owner[crop], 0), images - 1) : crop / (crops / images);
        for (int channel = 0; channel < 3; ++channel) {
            const float* plane = image + (static_cast<size_t>(own) * 3 + channel) * height * width;
            for (int row = 0; row < size; ++row) {
                for (int column = 0; column < size; ++column) {
                    *out++ = roi_sample(plane, height, width, boxes + crop * 4, size, row, column);
                }
            }
        }
    }
}

}  // namespace edge::reference
