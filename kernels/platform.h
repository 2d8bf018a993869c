// What the kernels ask of a compiler, so that one source compiles with nvcc, with NVRTC and, for tests, with a host compiler.
#pragma once

#include <cuda_fp16.h>  // defines: __half and its conversions, also on the host

#if !defined(__CUDACC_RTC__)
#include <cmath>  // defines: floorf, ceilf, fmaf, fminf, fmaxf, nearbyintf (built into NVRTC)
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define EDGE_FUNCTION __host__ __device__ __forceinline__
#define EDGE_UNROLL _Pragma("unroll")
#else
#define EDGE_FUNCTION inline
#define EDGE_UNROLL
#endif

namespace edge {

EDGE_FUNCTION int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Rounded product that no compiler may fuse into a later sum (host builds need -ffp-contract=off).
EDGE_FUNCTION float product(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

EDGE_FUNCTION float read(const float* address) {
#if defined(__CUDA_ARCH__)
    return __ldg(address);
#else
    return *address;
#endif
}

EDGE_FUNCTION float read(const __half* address) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ldg(address));
#else
    return __half2float(*address);
#endif
}

EDGE_FUNCTION float lerp(float a, float b, float weight) { return fmaf(weight, b - a, a); }

// Position of output sample `index` among source samples: first neighbour and weight of the second one.
struct Position {
    int lower;
    float weight;
};

// An evenly spaced walk over `span` source steps in `count` samples, both ends included (align_corners).
// The step is kept with its rounding error: i * step is then right to the last bit of the weight, where a plain fp32
// product is off by 2^-16 of a pixel near column 448, more than the error budget on noisy images.
struct Walk {
    float step;
    float residual;
};

EDGE_FUNCTION Walk make_walk(float span, int count) {
    const float intervals = static_cast<float>(count - 1);
    if (count < 2) return {0.0f, 0.0f};
    const float step = span / intervals;
    return {step, fmaf(-step, intervals, span) / intervals};
}

EDGE_FUNCTION Position position(Walk walk, int index, float offset = 0.0f) {
    const float i = static_cast<float>(index);
    const float rounded = product(i, walk.step);
    const float error = fmaf(i, walk.step, -rounded) + product(i, walk.residual);
    const float whole = rounded + offset;
    const float base = floorf(whole);
    return {static_cast<int>(base), fminf(fmaxf((whole - base) + error, 0.0f), 1.0f)};
}

}  // namespace edge
