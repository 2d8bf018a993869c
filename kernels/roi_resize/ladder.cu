/* Kernels for RoiResize, fp16 image to fp16 linear crops, B = 8, K = 4, 448 x 448.

Compile example: nvcc -O3 -std=c++17 -arch=native -Ikernels kernels/roi_resize/ladder.cu -o roi_resize_ladder
Every block size is checked against the CPU before any is timed. Without a version all of them run; --small checks
a small problem and times nothing (for compute-sanitizer).

version 1 is the naive port from CPU code to kernel: one output element per thread
./roi_resize_ladder 1

version 2 makes all three channels of a pixel per thread, so that box and position are computed once
./roi_resize_ladder 2

version 3 makes two adjacent columns per thread and stores them together, 128 bytes per warp
./roi_resize_ladder 3

version 4 makes eight rows of one column per thread and keeps the source rows in use in registers
./roi_resize_ladder 4

version 5 does both: two columns, eight rows (the product where the staged version cannot be, roi_resize.cuh)
./roi_resize_ladder 5

version 6 makes eight columns for 16-byte stores
./roi_resize_ladder 6

version 7 makes two columns and 32 rows: fewer source rows read twice, fewer threads
./roi_resize_ladder 7

version 8 makes four columns and eight rows
./roi_resize_ladder 8

version 9 lets a block make a band of 16 rows: its rows are found once, differences of source rows taken once
./roi_resize_ladder 9

version 10 fetches the next source row ahead
./roi_resize_ladder 10

version 11 copies the source pixels under the band to shared memory at once; block sizes 32 to 128
./roi_resize_ladder 11

version 12 does the same with four columns per thread; block sizes 32 and 64
./roi_resize_ladder 12

version 13 with bands of eight rows: half the shared memory, more blocks at a time; block sizes 64, 128 and 256
./roi_resize_ladder 13

version 14 with bands of ten rows and 224 threads, which the columns of 448 pixels fill (the product, bands.cuh)
./roi_resize_ladder 14
*/

#include "ladder.h"                // defines: CUDA_CHECK, DeviceArray, cold_microseconds, copy_bandwidth, print_timing
#include "roi_resize/bands.cuh"    // defines: roi_resize_bands, roi_resize_staged_bands, Stage
#include "roi_resize/reference.h"  // defines: edge::reference::roi_resize
#include "roi_resize/roi_resize.cuh"  // defines: roi_resize_tile, make_axis, image_of, taps_at, lerp, read

#include <type_traits>  // defines: std::integral_constant

using edge::RoiResize;

// ----------------------------------------------------------------------------
// CPU code reference: roi_resize/reference.h

// ----------------------------------------------------------------------------
// GPU kernels
// image is (B, 3, height, width), boxes is (B * regions, 4), owner is (B * regions) or null, out is (B * regions, 3,
// size, size)

__device__ float sample(const RoiResize& op, const __half* plane, edge::Taps across, edge::Taps down) {
    const __half *upper = plane + down.lower * op.width, *lower = plane + down.upper * op.width;
    const float above = edge::lerp(edge::read(upper + across.lower), edge::read(upper + across.upper), across.weight);
    const float below = edge::lerp(edge::read(lower + across.lower), edge::read(lower + across.upper), across.weight);
    return edge::lerp(above, below, down.weight);
}

__device__ const __half* plane_of(const RoiResize& op, const __half* image, const int* owner, int crop, int channel) {
    return image + (static_cast<size_t>(edge::image_of(op, owner, crop)) * 3 + channel) * op.height * op.width;
}

__global__ void roi_resize_kernel1(RoiResize op, const __half* image, const float* boxes, const int* owner, __half* out,
                                   int crops) {
    const size_t index = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t plane = static_cast<size_t>(op.size) * op.size;
    if (index >= crops * 3 * plane) return;
    const int column = index % op.size, row = index / op.size % op.size;
    const int channel = index / plane % 3, crop = index / plane / 3;
    const float* box = boxes + crop * 4;
    const edge::Taps across = edge::taps_at(edge::make_axis(box[0], box[2], op.width, op.size), column);
    const edge::Taps down = edge::taps_at(edge::make_axis(box[1], box[3], op.height, op.size), row);
    out[index] = __float2half_rn(sample(op, plane_of(op, image, owner, crop, channel), across, down));
}

__global__ void roi_resize_kernel2(RoiResize op, const __half* image, const float* boxes, const int* owner, __half* out,
                                   int crops) {
    const size_t index = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t plane = static_cast<size_t>(op.size) * op.size;
    if (index >= crops * plane) return;
    const int column = index % op.size, row = index / op.size % op.size, crop = index / plane;
    const float* box = boxes + crop * 4;
    const edge::Taps across = edge::taps_at(edge::make_axis(box[0], box[2], op.width, op.size), column);
    const edge::Taps down = edge::taps_at(edge::make_axis(box[1], box[3], op.height, op.size), row);
    for (int channel = 0; channel < 3; ++channel) {
        out[(static_cast<size_t>(crop) * 3 + channel) * plane + row * op.size + column] =
            __float2half_rn(sample(op, plane_of(op, image, owner, crop, channel), across, down));
    }
}

__global__ void roi_resize_kernel3(RoiResize op, const __half* image, const float* boxes, const int* owner, __half* out,
                                   int crops) {
    const size_t index = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t plane = static_cast<size_t>(op.size) * op.size;
    if (index >= crops * plane / 2) return;
    const int pairs = op.size / 2;
    const int column = index % pairs * 2, row = index / pairs % op.size, crop = index / (plane / 2);
    const float* box = boxes + crop * 4;
    const edge::Axis horizontal = edge::make_axis(box[0], box[2], op.width, op.size);
    const edge::Taps left = edge::taps_at(horizontal, column), right = edge::taps_at(horizontal, column + 1);
    const edge::Taps down = edge::taps_at(edge::make_axis(box[1], box[3], op.height, op.size), row);
    for (int channel = 0; channel < 3; ++channel) {
        const __half* pixels = plane_of(op, image, owner, crop, channel);
        __half* address = out + (static_cast<size_t>(crop) * 3 + channel) * plane + row * op.size + column;
        *reinterpret_cast<__half2*>(address) =
            __floats2half2_rn(sample(op, pixels, left, down), sample(op, pixels, right, down));
    }
}

// Versions 4 to 8 differ in the tile of a thread only.
template <int COLUMNS, int ROWS>
__global__ void roi_resize_tiles(RoiResize op, const __half* image, const float* boxes, const int* owner, __half* out) {
    const int tile = blockIdx.x * blockDim.x + threadIdx.x;
    if (tile >= edge::tiles_per_crop<COLUMNS, ROWS>(op.size)) return;
    edge::roi_resize_tile<__half, __half, edge::Layout::kLinear, COLUMNS, ROWS>(op, image, boxes, owner, blockIdx.y,
                                                                                tile, out);
}

// ----------------------------------------------------------------------------
// kernel launchers

struct Problem {
    int batch, regions, size;
    int crops() const { return batch * regions; }
    size_t pixels() const { return static_cast<size_t>(crops()) * size * size; }
    RoiResize op() const { return {batch, regions, size, size, size}; }
};

using Elementwise = void (*)(RoiResize, const __half*, const float*, const int*, __half*, int);

void launch_elements(Elementwise kernel, const Problem& problem, size_t threads, const __half* image,
                     const float* boxes, const int* owner, __half* out, int block_size) {
    const unsigned blocks = static_cast<unsigned>((threads + block_size - 1) / block_size);
    kernel<<<blocks, block_size>>>(problem.op(), image, boxes, owner, out, problem.crops());
}

template <int COLUMNS, int ROWS>
void launch_tiles(const Problem& problem, const __half* image, const float* boxes, const int* owner, __half* out,
                  int block_size) {
    const int tiles = edge::tiles_per_crop<COLUMNS, ROWS>(problem.size);
    const dim3 grid(edge::ceil_div(tiles, block_size), problem.crops());
    roi_resize_tiles<COLUMNS, ROWS><<<grid, block_size>>>(problem.op(), image, boxes, owner, out);
}

template <int COLUMNS, int ROWS>
dim3 band_grid(const Problem& problem, int threads) {
    return dim3(edge::ceil_div(problem.size, ROWS), problem.crops(), edge::ceil_div(problem.size, COLUMNS * threads));
}

template <int COLUMNS, int ROWS, bool AHEAD>
void launch_bands(const Problem& problem, const __half* image, const float* boxes, const int* owner, __half* out,
                  int block_size) {
    edge::roi_resize_bands<__half, __half, edge::Layout::kLinear, COLUMNS, ROWS, AHEAD>
        <<<band_grid<COLUMNS, ROWS>(problem, block_size), block_size>>>(problem.op(), image, boxes, owner, out);
}

// The block size is one of THREADS: the shared memory depends on it.
template <int COLUMNS, int ROWS, int... THREADS>
void launch_staged(const Problem& problem, const __half* image, const float* boxes, const int* owner, __half* out,
                   int block_size) {
    const auto launch = [&](auto threads) {
        constexpr int kThreads = decltype(threads)::value;
        if (block_size != kThreads) return;
        edge::roi_resize_staged_bands<__half, __half, edge::Layout::kLinear, COLUMNS, ROWS, kThreads>
            <<<band_grid<COLUMNS, ROWS>(problem, kThreads), kThreads>>>(problem.op(), image, boxes, owner, out);
    };
    (launch(std::integral_constant<int, THREADS>()), ...);
}

std::vector<int> block_sizes(int version) {
    switch (version) {
        case 11: return {32, 64, 128};
        case 12: return {32, 64};
        case 14: return {224};
        default: return {64, 128, 256};
    }
}

// kernel version dispatch
void roi_resize(int version, const Problem& problem, const __half* image, const float* boxes, const int* owner,
                __half* out, int block_size) {
    const size_t pixels = problem.pixels();
    switch (version) {
        case 1: launch_elements(roi_resize_kernel1, problem, pixels * 3, image, boxes, owner, out, block_size); break;
        case 2: launch_elements(roi_resize_kernel2, problem, pixels, image, boxes, owner, out, block_size); break;
        case 3: launch_elements(roi_resize_kernel3, problem, pixels / 2, image, boxes, owner, out, block_size); break;
        case 4: launch_tiles<1, 8>(problem, image, boxes, owner, out, block_size); break;
        case 5: launch_tiles<2, 8>(problem, image, boxes, owner, out, block_size); break;
        case 6: launch_tiles<8, 8>(problem, image, boxes, owner, out, block_size); break;
        case 7: launch_tiles<2, 32>(problem, image, boxes, owner, out, block_size); break;
        case 8: launch_tiles<4, 8>(problem, image, boxes, owner, out, block_size); break;
        case 9: launch_bands<2, 16, false>(problem, image, boxes, owner, out, block_size); break;
        case 10: launch_bands<2, 16, true>(problem, image, boxes, owner, out, block_size); break;
        case 11: launch_staged<2, 16, 32, 64, 128>(problem, image, boxes, owner, out, block_size); break;
        case 12: launch_staged<4, 16, 32, 64>(problem, image, boxes, owner, out, block_size); break;
        case 13: launch_staged<2, 8, 64, 128, 256>(problem, image, boxes, owner, out, block_size); break;
        case 14: launch_staged<2, 10, 224>(problem, image, boxes, owner, out, block_size); break;
        default: std::printf("version must be 1 to 14, got %d\n", version); std::exit(EXIT_FAILURE);
    }
    CUDA_CHECK(cudaGetLastError());
}

// ----------------------------------------------------------------------------
// main

// Boxes as the model finds them: sides from an eighth of the image up to all of it, a few thin ones, some at borders.
std::vector<float> make_boxes(const Problem& problem, std::mt19937& random) {
    std::uniform_int_distribution<int> side(problem.size / 8, problem.size), percent(0, 99);
    std::vector<float> boxes;
    for (int i = 0; i < problem.crops(); ++i) {
        int begin[2], end[2];
        for (int axis = 0; axis < 2; ++axis) {
            const int length = percent(random) < 3 ? 1 + percent(random) % 2 : side(random);
            const int room = problem.size - length;
            const int where = percent(random);
            begin[axis] = where < 10 ? 0 : where < 20 ? room : std::uniform_int_distribution<int>(0, room)(random);
            end[axis] = begin[axis] + length;
        }
        for (int value : {begin[0], begin[1], end[0], end[1]}) boxes.push_back(static_cast<float>(value));
    }
    return boxes;
}

// What must cross the memory bus: every source pixel under some box once, every output element once.
double bytes_to_move(const Problem& problem, const std::vector<float>& boxes) {
    size_t covered = 0;
    for (int b = 0; b < problem.batch; ++b) {
        std::vector<char> mask(static_cast<size_t>(problem.size) * problem.size, 0);
        for (int k = 0; k < problem.regions; ++k) {
            const float* box = &boxes[(b * problem.regions + k) * 4];
            for (int y = static_cast<int>(box[1]); y < box[3]; ++y) {
                std::fill(&mask[y * problem.size] + static_cast<int>(box[0]),
                          &mask[y * problem.size] + static_cast<int>(box[2]), 1);
            }
        }
        covered += std::count(mask.begin(), mask.end(), 1);
    }
    return (covered + problem.pixels()) * 3.0 * sizeof(__half);
}

void check(int version, int block_size, const std::vector<__half>& out, const std::vector<double>& truth) {
    static const std::vector<float> values = [] {  // of every fp16 number: 65,536 conversions instead of a billion
        std::vector<float> all(1 << 16);
        for (int bits = 0; bits < 1 << 16; ++bits) all[bits] = __half2float(__ushort_as_half(bits));
        return all;
    }();
    double error = 0, norm = 0;
    for (size_t i = 0; i < truth.size(); ++i) {
        const double value = values[__half_as_ushort(out[i])], difference = std::abs(value - truth[i]);
        error += difference * difference;
        norm += truth[i] * truth[i];
        if (!(difference <= 1e-3 * std::abs(truth[i]) + 1e-5)) {
            std::printf("v%d, block_size %d: element %zu is %f, expected %f\n", version, block_size, i, value,
                        truth[i]);
            std::exit(EXIT_FAILURE);
        }
    }
    std::printf("v%d | block_size %4d | correct, relative error %.2e\n", version, block_size, std::sqrt(error / norm));
}

int main(int argc, char** argv) {
    bool small = false;
    int first = 1, last = 14;
    for (int i = 1; i < argc; ++i) {
        if (!std::strcmp(argv[i], "--small"))
            small = true;
        else
            first = last = std::atoi(argv[i]);
    }
    const Problem problem = small ? Problem{2, 3, 64} : Problem{8, 4, 448};
    print_device();

    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    std::vector<__half> image(static_cast<size_t>(problem.batch) * 3 * problem.size * problem.size);
    for (__half& pixel : image) pixel = __float2half_rn(normal(random));
    const std::vector<float> boxes = make_boxes(problem, random);

    // The reference sees the image as rounded to fp16, so that only the kernel's own error is measured.
    const std::vector<float> exact(image.begin(), image.end());
    // Boxes of each image in turn, and of images in any order.
    std::vector<int> owner(problem.crops());
    for (int i = 0; i < problem.crops(); ++i) owner[i] = (i * 5 + 2) % problem.batch;
    std::vector<double> truth(problem.pixels() * 3), owned_truth(truth.size());
    const auto make_truth = [&](const int* owner, std::vector<double>& truth) {
        edge::reference::roi_resize(exact.data(), boxes.data(), owner, problem.batch, problem.crops(), problem.size,
                                    problem.size, problem.size, truth.data());
    };
    make_truth(nullptr, truth);
    make_truth(owner.data(), owned_truth);

    DeviceArray<__half> device_image(image), device_out(truth.size());
    DeviceArray<float> device_boxes(boxes);
    DeviceArray<int> device_owner(owner);
    for (int version = first; version <= last; ++version) {
        for (int block_size : block_sizes(version)) {
            for (const bool owned : {false, true}) {
                device_out.poison();
                roi_resize(version, problem, device_image.data, device_boxes.data, owned ? device_owner.data : nullptr,
                           device_out.data, block_size);
                check(version, block_size, device_out.values(), owned ? owned_truth : truth);
            }
        }
    }
    if (small) return EXIT_SUCCESS;

    const double bandwidth = copy_bandwidth(), bytes = bytes_to_move(problem, boxes);
    std::printf("copy bandwidth %.0f GB/s\n", bandwidth / 1e3);
    for (int version = first; version <= last; ++version) {
        for (int block_size : block_sizes(version)) {
            const double time = cold_microseconds([&] {
                roi_resize(version, problem, device_image.data, device_boxes.data, nullptr, device_out.data,
                           block_size);
            });
            print_timing(version, block_size, time, bytes, bandwidth);
        }
    }
    return EXIT_SUCCESS;
}
