// Every format and branch of the two kernels on the GPU, against the CPU references; one JSON object per line.
//
//   nvcc -O3 -std=c++17 -arch=native -Ikernels benchmarks/gpu/check.cu kernels/launch.cu -o check && ./check [--small]
//
// --small takes an image of 64 instead of 448 pixels: for compute-sanitizer.

#include <cmath>
#include <string>

#include "ladder.h"                       // defines: CUDA_CHECK, DeviceArray
#include "launch.h"                       // defines: edge_roi_resize, edge_region_boxes, EdgeFormat
#include "region_boxes/reference.h"       // defines: edge::reference::bounds, edge::reference::region_boxes
#include "region_boxes/region_boxes.cuh"  // defines: region_boxes_kernel
#include "roi_resize/reference.h"         // defines: edge::reference::roi_resize

static int failures = 0;

static void report(const std::string& name, double value, double limit) {
    const bool ok = value <= limit;  // false for NaN
    failures += !ok;
    std::printf("{\"check\": \"%s\", \"value\": %.3g, \"limit\": %.3g, \"ok\": %s}\n", name.c_str(), value, limit,
                ok ? "true" : "false");
}

static double largest_difference(const std::vector<float>& result, const std::vector<double>& truth) {
    double difference = 0;
    for (size_t i = 0; i < truth.size(); ++i) {
        const double distance = std::abs(result[i] - truth[i]);
        if (!(distance <= difference)) difference = distance;  // takes a NaN
    }
    return difference;
}

// ----------------------------------------------------------------------------
// RoiResize

struct Crops {
    int size;
    std::vector<float> image, boxes;
    std::vector<double> truth;
    int count() const { return static_cast<int>(boxes.size()) / 4; }
};

// One image; boxes of every critical extent at each corner and in the middle.
static Crops make_crops(int size, bool half_image) {
    Crops crops = {size, {}, {}, {}};
    std::mt19937 random(size);
    std::normal_distribution<float> normal;
    for (int i = 0; i < 3 * size * size; ++i) {
        const float pixel = normal(random);
        crops.image.push_back(half_image ? __half2float(__float2half_rn(pixel)) : pixel);
    }
    for (int extent : {1, 2, size / 8 - 1, size / 8, size - 1, size}) {
        const int room = size - extent;
        for (const auto& [x, y] : {std::pair{0, 0}, {room, 0}, {room / 2, room / 2}, {0, room}, {room, room}}) {
            for (int value : {x, y, x + extent, y + extent}) crops.boxes.push_back(static_cast<float>(value));
        }
    }
    crops.truth.resize(static_cast<size_t>(crops.count()) * 3 * size * size);
    edge::reference::roi_resize(crops.image.data(), crops.boxes.data(), nullptr, 1, crops.count(), size, size, size,
                                crops.truth.data());
    return crops;
}

template <typename Out>
static std::vector<Out> run(const Crops& crops, bool half_image, int format, int block) {
    const std::vector<__half> halves(crops.image.begin(), crops.image.end());
    const DeviceArray<float> image(crops.image), boxes(crops.boxes);
    const DeviceArray<__half> half(halves);
    DeviceArray<Out> out(static_cast<size_t>(crops.count()) * crops.size * crops.size * block);
    out.poison();
    const void* source = half_image ? static_cast<const void*>(half.data) : image.data;
    const int status = edge_roi_resize(source, half_image, boxes.data, nullptr, 1, crops.count(), crops.size,
                                       crops.size, crops.size, format, out.data, nullptr);
    CUDA_CHECK(static_cast<cudaError_t>(status));
    return out.values();
}

// Largest difference from `expected(element of the fp32 result)`; block is 3 for linear, else channels per pixel.
template <typename Out, typename Expected>
static double worst(const Crops& crops, const std::vector<Out>& out, int block, const std::vector<float>& exact,
                    Expected expected) {
    const size_t plane = static_cast<size_t>(crops.size) * crops.size;
    double difference = 0;
    for (size_t i = 0; i < out.size(); ++i) {
        const size_t crop = i / block / plane;
        const size_t channel = block == 3 ? i / plane % 3 : i % block;
        const size_t pixel = block == 3 ? i % plane : i / block % plane;
        const double right = channel < 3 ? expected(exact[(crop * 3 + channel) * plane + pixel]) : 0.0;
        const double distance = std::abs(static_cast<double>(static_cast<float>(out[i])) - right);
        if (!(distance <= difference)) difference = distance;  // takes a NaN
    }
    return difference;
}

static void check_roi_resize(int size) {
    const auto rounded = [](float value) { return __half2float(__float2half_rn(value)); };
    for (bool half_image : {false, true}) {
        const Crops crops = make_crops(size, half_image);
        const std::string name = std::string("RoiResize ") + (half_image ? "fp16" : "fp32") + " image, ";
        const std::vector<float> exact = run<float>(crops, half_image, EDGE_FP32_LINEAR, 3);
        double error = 0, norm = 0;
        for (size_t i = 0; i < exact.size(); ++i) {
            error += (exact[i] - crops.truth[i]) * (exact[i] - crops.truth[i]);
            norm += crops.truth[i] * crops.truth[i];
        }
        report(name + "fp32 linear: relative error against double", std::sqrt(error / norm), 1e-6);
        const auto halves = [&](int format, int block) {
            return worst(crops, run<__half>(crops, half_image, format, block), block, exact, rounded);
        };
        report(name + "fp16 linear: difference from the rounded fp32 result", halves(EDGE_FP16_LINEAR, 3), 0);
        report(name + "fp16 hwc8: difference from the rounded fp32 result", halves(EDGE_FP16_HWC8, 8), 0);
    }
}

// Boxes of three images in any order; what names no image is clamped.
static void check_owner(int size) {
    const Crops first = make_crops(size, false);
    std::vector<float> images;
    for (float factor : {1.0f, -2.0f, 0.5f}) {
        for (float pixel : first.image) images.push_back(factor * pixel);
    }
    std::vector<int> owner;
    for (int i = 0; i < first.count(); ++i) owner.push_back(i * 7 % 5 - 1);  // -1 to 3
    std::vector<double> truth(first.truth.size());
    edge::reference::roi_resize(images.data(), first.boxes.data(), owner.data(), 3, first.count(), size, size, size,
                                truth.data());
    const DeviceArray<float> image(images), boxes(first.boxes);
    const DeviceArray<int> owners(owner);
    DeviceArray<float> out(truth.size());
    out.poison();
    CUDA_CHECK(static_cast<cudaError_t>(edge_roi_resize(image.data, 0, boxes.data, owners.data, 3, first.count(), size,
                                                        size, size, EDGE_FP32_LINEAR, out.data, nullptr)));
    const std::vector<float> result = out.values();
    report("RoiResize with owners: largest difference", largest_difference(result, truth), 1e-5);
}

// ----------------------------------------------------------------------------
// RegionBoxes

static double share_of_different_rows(const std::vector<float>& a, const std::vector<float>& b) {
    size_t different = 0;
    for (size_t i = 0; i < a.size(); i += 4) different += std::memcmp(&a[i], &b[i], 4 * sizeof(float)) != 0;
    return static_cast<double>(different) / (a.size() / 4);
}

// Profiles on few levels: ties, plateaus and samples that equal the threshold, every branch of the search.
static void check_bounds(int size, int count) {
    std::mt19937 random(size);
    std::uniform_int_distribution<int> level(0, 10), run_length(1, size / 8);
    std::vector<float> profiles;
    for (int i = 0; i < 2 * count; ++i) {
        std::vector<float> profile;
        while (static_cast<int>(profile.size()) < size) {
            profile.insert(profile.end(), run_length(random), level(random) / 10.0f);
        }
        profiles.insert(profiles.end(), profile.begin(), profile.begin() + size);
    }
    std::vector<float> truth;
    for (int i = 0; i < count; ++i) {
        const auto x = edge::reference::bounds(&profiles[2 * i * size], size, 0.5f);
        const auto y = edge::reference::bounds(&profiles[(2 * i + 1) * size], size, 0.5f);
        for (int value : {x.begin, y.begin, x.end, y.end}) truth.push_back(static_cast<float>(value));
    }
    const DeviceArray<float> input(profiles);
    DeviceArray<float> boxes(truth.size());
    boxes.poison();
    edge::region_boxes_kernel<true><<<2 * count, edge::kRegionBoxesThreads>>>({1, size, 0.5f}, input.data, boxes.data);
    CUDA_CHECK(cudaGetLastError());
    const double share = share_of_different_rows(boxes.values(), truth);
    report("RegionBoxes " + std::to_string(size) + ": different bounds of the same profiles", share, 0);
}

static void check_maps(int grid, int size, int count) {
    std::mt19937 random(grid);
    std::uniform_real_distribution<float> uniform(0, 1);
    std::vector<float> maps;
    for (int i = 0; i < count * grid * grid; ++i)
        maps.push_back(std::pow(uniform(random), 1.0f + i / (grid * grid) % 7));
    std::vector<float> truth(static_cast<size_t>(count) * 4);
    edge::reference::region_boxes(maps.data(), count, grid, size, 0.5f, truth.data());
    const DeviceArray<float> input(maps);
    DeviceArray<float> boxes(truth.size());
    boxes.poison();
    CUDA_CHECK(static_cast<cudaError_t>(edge_region_boxes(input.data, count, grid, size, 0.5f, boxes.data, nullptr)));
    const double share = share_of_different_rows(boxes.values(), truth);
    report("RegionBoxes " + std::to_string(size) + ": share of different boxes of maps", share, 1e-3);
}

// ----------------------------------------------------------------------------
// graph capture

// Box finding feeds the crop inside one captured graph; a second replay sees new maps without a new capture.
static void check_capture(int size) {
    const int grid = size / 32, regions = 4;
    const Crops crops = make_crops(size, false);
    const DeviceArray<float> image(crops.image);
    DeviceArray<float> maps(static_cast<size_t>(regions) * grid * grid), boxes(regions * 4);
    DeviceArray<float> out(static_cast<size_t>(regions) * 3 * size * size);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CUDA_CHECK(cudaStreamCreate(&stream));
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    const int first = edge_region_boxes(maps.data, regions, grid, size, 0.5f, boxes.data, stream);
    const int second = edge_roi_resize(image.data, 0, boxes.data, nullptr, 1, regions, size, size, size,
                                       EDGE_FP32_LINEAR, out.data, stream);
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    CUDA_CHECK(static_cast<cudaError_t>(first | second));
    CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
    for (int replay = 0; replay < 2; ++replay) {
        std::mt19937 random(replay);
        std::uniform_real_distribution<float> uniform(0, 1);
        std::vector<float> values(maps.count), found(boxes.count);
        for (float& value : values) value = uniform(random);
        CUDA_CHECK(cudaMemcpy(maps.data, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice));
        out.poison();
        CUDA_CHECK(cudaGraphLaunch(executable, stream));
        edge::reference::region_boxes(values.data(), regions, grid, size, 0.5f, found.data());
        std::vector<double> truth(out.count);
        edge::reference::roi_resize(crops.image.data(), found.data(), nullptr, 1, regions, size, size, size,
                                    truth.data());
        const std::vector<float> result = out.values();
        report("captured graph, replay " + std::to_string(replay) + ": largest difference",
               largest_difference(result, truth), 1e-5);
    }
    CUDA_CHECK(cudaGraphExecDestroy(executable));
    CUDA_CHECK(cudaGraphDestroy(graph));
    CUDA_CHECK(cudaStreamDestroy(stream));
}

int main(int argc, char** argv) {
    const bool small = argc > 1 && !std::strcmp(argv[1], "--small");
    check_roi_resize(small ? 64 : 448);
    check_roi_resize(small ? 30 : 254);  // not a multiple of four: the scalar instances
    check_owner(small ? 64 : 256);
    for (int size : {32, 256, 448, 576, 1024}) check_bounds(size, small ? 20 : 5000);
    check_maps(8, 256, small ? 10 : 2000);
    check_maps(14, 448, small ? 10 : 2000);
    check_maps(18, 576, small ? 10 : 2000);
    check_maps(32, 1024, small ? 2 : 500);
    check_capture(small ? 64 : 448);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
