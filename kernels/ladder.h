// What both ladders need around their kernels: errors, device buffers, timing with a cold L2 cache, copy bandwidth.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#define CUDA_CHECK(call)                                                                                  \
    do {                                                                                                  \
        const cudaError_t error_of_call = (call);                                                         \
        if (error_of_call != cudaSuccess) {                                                               \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_of_call)); \
            std::exit(EXIT_FAILURE);                                                                      \
        }                                                                                                 \
    } while (false)

template <typename T>
struct DeviceArray {
    T* data = nullptr;
    size_t count;

    explicit DeviceArray(size_t count) : count(count) { CUDA_CHECK(cudaMalloc(&data, count * sizeof(T))); }
    explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
        CUDA_CHECK(cudaMemcpy(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice));
    }
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;
    ~DeviceArray() { cudaFree(data); }

    // 0xff bytes are NaN in fp32 and fp16 and -1 in int8: an element that is never written shows.
    void poison() { CUDA_CHECK(cudaMemset(data, 0xff, count * sizeof(T))); }
    std::vector<T> values() const {
        std::vector<T> host(count);
        CUDA_CHECK(cudaDeviceSynchronize());
        CUDA_CHECK(cudaMemcpy(host.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }
};

// Sums `count` values and keeps the sum from being left out.
static __global__ void read_all(const uint4* values, size_t count, unsigned* sum) {
    unsigned own = 0;
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
        const uint4 value = values[i];
        own += value.x ^ value.y ^ value.z ^ value.w;
    }
    if (own == 0xffffffffu) *sum = own;
}

// Median microseconds of `work`, the L2 cache filled with something else before every run: by reading, since `work`
// would have to wait for the lines that a memset leaves to be written back.
inline double cold_microseconds(const std::function<void()>& work, int repeats = 100) {
    int device = 0, l2 = 0;
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device));
    static DeviceArray<uint4> flush(std::max<size_t>(4 * static_cast<size_t>(l2), 32 << 20) / sizeof(uint4));
    static DeviceArray<unsigned> sum(1);
    CUDA_CHECK(cudaMemset(flush.data, 0, flush.count * sizeof(uint4)));
    cudaEvent_t start, stop;
    CUDA_CHECK(cudaEventCreate(&start));
    CUDA_CHECK(cudaEventCreate(&stop));
    for (int i = 0; i < 3; ++i) work();
    std::vector<float> times;
    for (int i = 0; i < repeats; ++i) {
        read_all<<<1024, 256>>>(flush.data, flush.count, sum.data);
        CUDA_CHECK(cudaEventRecord(start));
        work();
        CUDA_CHECK(cudaEventRecord(stop));
        CUDA_CHECK(cudaEventSynchronize(stop));
        float milliseconds = 0;
        CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start, stop));
        times.push_back(milliseconds);
    }
    CUDA_CHECK(cudaEventDestroy(start));
    CUDA_CHECK(cudaEventDestroy(stop));
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2] * 1e3;
}

// Bytes per microsecond of a large device-to-device copy, reads and writes counted: the ceiling for what only moves
// bytes.
inline double copy_bandwidth() {
    const size_t bytes = size_t{256} << 20;
    DeviceArray<char> from(bytes), to(bytes);
    from.poison();
    const double time = cold_microseconds(
        [&] { CUDA_CHECK(cudaMemcpyAsync(to.data, from.data, bytes, cudaMemcpyDeviceToDevice)); }, 20);
    return 2.0 * bytes / time;
}

inline void print_device() {
    int device = 0;
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    std::printf("device %s | sm_%d%d | %d multiprocessors | L2 %.0f MB\n", properties.name, properties.major,
                properties.minor, properties.multiProcessorCount, properties.l2CacheSize / 1e6);
}

inline void print_timing(int version, int block_size, double microseconds, double bytes, double bandwidth) {
    std::printf("v%d | block_size %4d | time %9.2f us | %7.2f MB | %5.1f %% of the copy bandwidth\n", version,
                block_size, microseconds, bytes / 1e6, 100 * bytes / microseconds / bandwidth);
}
