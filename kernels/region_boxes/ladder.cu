/* Kernels for RegionBoxes, B = 8, K = 4, maps 14 x 14, input 448 x 448.

Compile example: nvcc -O3 -std=c++17 -arch=native -Ikernels kernels/region_boxes/ladder.cu -o region_boxes_ladder
Every block size is checked against the CPU before any is timed. Without a version all of them run; --small checks
a small problem and times nothing (for compute-sanitizer).

version 0 does nothing: the floor of these timings
./region_boxes_ladder 0

version 1 is the naive port from CPU code to kernel: one thread per region
./region_boxes_ladder 1

version 2 uses one block per region; a thread finds the maximum of whole columns and rows, thread 0 the intervals
./region_boxes_ladder 2

version 3 looks only at samples beside grid points: 27 instead of 448 per column or row
./region_boxes_ladder 3

version 4 finds the intervals with all threads, from a bit mask of crossings
./region_boxes_ladder 4

version 5 gives each axis a block of its own (the product, region_boxes.cuh)
./region_boxes_ladder 5
*/

#include "ladder.h"                       // defines: CUDA_CHECK, DeviceArray, cold_microseconds, copy_bandwidth
#include "region_boxes/reference.h"       // defines: edge::reference::region_boxes
#include "region_boxes/region_boxes.cuh"  // defines: run_block and its phases, position, blend, score, widen, Workspace

using edge::Interval;
using edge::RegionBoxes;

// ----------------------------------------------------------------------------
// CPU code reference: region_boxes/reference.h

// ----------------------------------------------------------------------------
// GPU kernels
// maps is (regions, grid, grid), boxes is (regions, 4)

__device__ float map_value(const RegionBoxes& op, const float* map, int row, int column) {
    const edge::Position x = edge::position(op, column), y = edge::position(op, row);
    const int right = min(x.lower + 1, op.grid - 1), below = min(y.lower + 1, op.grid - 1);
    const float* upper = map + y.lower * op.grid;
    const float* lower = map + below * op.grid;
    return edge::blend(edge::blend(upper[x.lower], upper[right], x.weight),
                       edge::blend(lower[x.lower], lower[right], x.weight), y.weight);
}

__device__ float whole_maximum(const RegionBoxes& op, const float* map, int index, int side) {
    float best = 0.0f;
    for (int i = 0; i < op.size; ++i) {
        best = fmaxf(best, side == 0 ? map_value(op, map, i, index) : map_value(op, map, index, i));
    }
    return best;
}

// The segment [begin, end) against the best so far.
__device__ void judge(const float* scores, Interval segment, Interval& winner, float& best) {
    float peak = 0.0f;
    for (int i = segment.begin; i < segment.end; ++i) peak = fmaxf(peak, scores[i]);
    const bool wider = segment.end - segment.begin > winner.end - winner.begin;
    if (peak > best || (peak == best && wider)) {
        best = peak;
        winner = segment;
    }
}

// One thread, in the order of the published code; profile becomes scores.
__device__ Interval sequential_bounds(const RegionBoxes& op, float* profile) {
    float low = profile[0], high = profile[0];
    for (int i = 1; i < op.size; ++i) {
        low = fminf(low, profile[i]);
        high = fmaxf(high, profile[i]);
    }
    for (int i = 0; i < op.size; ++i) profile[i] = edge::score(profile[i], low, high);
    const auto crosses = [&](int i) {
        return abs(edge::side_of(profile[i + 1], op.threshold) - edge::side_of(profile[i], op.threshold)) == 2;
    };
    int first = -1, last = -1;
    for (int i = 0; i + 1 < op.size; ++i) {
        if (!crosses(i)) continue;
        if (first < 0) first = i;
        last = i;
    }
    if (first < 0) return {edge::ceil_div(op.size, 8), edge::ceil_div(7 * op.size, 8)};
    Interval winner = {0, 0};
    float best = 0.0f;
    if (first > 0) judge(profile, {0, first}, winner, best);
    judge(profile, {last, op.size}, winner, best);
    for (int begin = first, i = first + 1; i <= last; ++i) {
        if (!crosses(i)) continue;
        judge(profile, {begin, i}, winner, best);
        begin = i;
    }
    return edge::widen(winner, op.size);
}

__device__ void write(float* boxes, int region, int side, Interval interval) {
    boxes[region * 4 + side] = static_cast<float>(interval.begin);
    boxes[region * 4 + 2 + side] = static_cast<float>(interval.end);
}

// The launch of version 5 without its work; no size is negative.
__global__ void region_boxes_kernel0(RegionBoxes op, const float* maps, float* boxes) {
    if (op.size < 0) boxes[threadIdx.x] = maps[threadIdx.x];
}

// scratch is (regions, size)
__global__ void region_boxes_kernel1(RegionBoxes op, const float* maps, float* boxes, float* scratch, int regions) {
    const int region = blockIdx.x * blockDim.x + threadIdx.x;
    if (region >= regions) return;
    float* profile = scratch + region * op.size;
    for (int side = 0; side < 2; ++side) {
        for (int i = 0; i < op.size; ++i) profile[i] = whole_maximum(op, maps + region * op.grid * op.grid, i, side);
        write(boxes, region, side, sequential_bounds(op, profile));
    }
}

__global__ void region_boxes_kernel2(RegionBoxes op, const float* maps, float* boxes) {
    __shared__ float profile[edge::kMaxSize];
    for (int side = 0; side < 2; ++side) {
        for (int i = threadIdx.x; i < op.size; i += blockDim.x) {
            profile[i] = whole_maximum(op, maps + blockIdx.x * op.grid * op.grid, i, side);
        }
        __syncthreads();
        if (threadIdx.x == 0) write(boxes, blockIdx.x, side, sequential_bounds(op, profile));
        __syncthreads();
    }
}

__global__ void region_boxes_kernel3(RegionBoxes op, const float* maps, float* boxes) {
    __shared__ edge::Workspace work;
    const edge::Lane lane = {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
    edge::load(op, work, lane, maps + blockIdx.x * op.grid * op.grid);
    __syncthreads();
    edge::stretch_candidates(op, work, lane);
    __syncthreads();
    for (int side = 0; side < 2; ++side) {
        edge::find_profile(op, work, lane, static_cast<edge::Side>(side));
        __syncthreads();
        if (threadIdx.x == 0) write(boxes, blockIdx.x, side, sequential_bounds(op, work.profile));
        __syncthreads();
    }
}

__global__ void region_boxes_kernel4(RegionBoxes op, const float* maps, float* boxes) {
    __shared__ edge::Workspace work;
    for (int side = 0; side < 2; ++side) {
        const float* map = maps + blockIdx.x * op.grid * op.grid;
        const Interval found = edge::run_block(op, work, static_cast<edge::Side>(side), map, edge::EachThread());
        if (threadIdx.x == 0) write(boxes, blockIdx.x, side, found);
        __syncthreads();  // the result is read from the workspace before the next side overwrites it
    }
}

// ----------------------------------------------------------------------------
// kernel launchers

// kernel version dispatch
void region_boxes(int version, RegionBoxes op, int regions, const float* maps, float* boxes, float* scratch,
                  int block_size) {
    const int blocks = edge::ceil_div(regions, block_size);
    switch (version) {
        case 0: region_boxes_kernel0<<<2 * regions, block_size>>>(op, maps, boxes); break;
        case 1: region_boxes_kernel1<<<blocks, block_size>>>(op, maps, boxes, scratch, regions); break;
        case 2: region_boxes_kernel2<<<regions, block_size>>>(op, maps, boxes); break;
        case 3: region_boxes_kernel3<<<regions, block_size>>>(op, maps, boxes); break;
        case 4: region_boxes_kernel4<<<regions, block_size>>>(op, maps, boxes); break;
        case 5: edge::region_boxes_kernel<><<<2 * regions, block_size>>>(op, maps, boxes); break;
        default: std::printf("version must be 0 to 5, got %d\n", version); std::exit(EXIT_FAILURE);
    }
    CUDA_CHECK(cudaGetLastError());
}

// ----------------------------------------------------------------------------
// main

// One to three blobs over a low floor, after the sigmoid: on uniform noise every profile would be flat and thin.
std::vector<float> make_maps(int regions, int grid, std::mt19937& random) {
    std::uniform_real_distribution<float> uniform(0, 1);
    std::vector<float> maps;
    for (int region = 0; region < regions; ++region) {
        std::vector<float> logits(grid * grid);
        for (float& logit : logits) logit = -4 + 2 * uniform(random);
        for (int blob = 1 + region % 3; blob > 0; --blob) {
            const float y = grid * uniform(random), x = grid * uniform(random), height = 9 * uniform(random);
            const float width = 0.7f + grid * uniform(random) / 4;
            for (int i = 0; i < grid * grid; ++i) {
                const float dy = i / grid - y, dx = i % grid - x;
                logits[i] += height * std::exp(-(dx * dx + dy * dy) / (2 * width * width));
            }
        }
        for (float logit : logits) maps.push_back(1 / (1 + std::exp(-logit)));
    }
    return maps;
}

// One region in a thousand may differ: where a sample lies on the threshold, rounding decides.
void check(int version, int block_size, const std::vector<float>& boxes, const std::vector<float>& truth) {
    const size_t regions = truth.size() / 4;
    size_t wrong = 0;
    for (size_t i = 0; i < regions; ++i) wrong += std::memcmp(&boxes[i * 4], &truth[i * 4], 4 * sizeof(float)) != 0;
    std::printf("v%d | block_size %4d | %zu of %zu regions differ\n", version, block_size, wrong, regions);
    if (wrong * 1000 > regions) std::exit(EXIT_FAILURE);
}

int main(int argc, char** argv) {
    bool small = false;
    int first = 0, last = 5;
    for (int i = 1; i < argc; ++i) {
        if (!std::strcmp(argv[i], "--small"))
            small = true;
        else
            first = last = std::atoi(argv[i]);
    }
    const RegionBoxes op = small ? RegionBoxes{4, 128, 0.5f} : RegionBoxes{14, 448, 0.5f};
    const int regions = 32, checked = small ? 8 : 2000;
    print_device();

    std::mt19937 random(0);
    const std::vector<float> maps = make_maps(checked, op.grid, random);
    std::vector<float> truth(checked * 4);
    edge::reference::region_boxes(maps.data(), checked, op.grid, op.size, op.threshold, truth.data());

    DeviceArray<float> device_maps(maps), device_boxes(truth.size()), scratch(static_cast<size_t>(checked) * op.size);
    const int block_sizes[] = {32, 64, 128, 256, 512, 1024};
    for (int version = std::max(first, 1); version <= last; ++version) {
        for (int block_size : block_sizes) {
            device_boxes.poison();
            region_boxes(version, op, checked, device_maps.data, device_boxes.data, scratch.data, block_size);
            check(version, block_size, device_boxes.values(), truth);
        }
    }
    if (small) return EXIT_SUCCESS;

    const double bandwidth = copy_bandwidth();
    const double bytes = regions * (op.grid * op.grid + 4.0) * sizeof(float);
    std::printf("copy bandwidth %.0f GB/s\n", bandwidth / 1e3);
    for (int version = first; version <= last; ++version) {
        for (int block_size : block_sizes) {
            const double time = cold_microseconds(
                [&] {
                    region_boxes(version, op, regions, device_maps.data, device_boxes.data, scratch.data, block_size);
                },
                version == 1 ? 5 : 100);
            print_timing(version, block_size, time, bytes, bandwidth);
        }
    }
    return EXIT_SUCCESS;
}
