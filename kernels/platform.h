// What the kernels ask of a compiler, so that one source compiles with nvcc, with NVRTC and, for tests, with a host
// compiler.
#pragma once

#include <cuda_fp16.h>  // defines: __half and its conversions, also on the host

#if !defined(__CUDACC_RTC__)
#include <cmath>  // defines: floorf, ceilf, fmaf, fminf, fmaxf, nearbyintf (built into NVRTC)
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define EDGE_FUNCTION __host__ __device__ __forceinline__
#else
#define EDGE_FUNCTION inline
#endif

#if defined(__CUDA_ARCH__)
#define EDGE_UNROLL _Pragma("unroll")
#define EDGE_ROLL _Pragma("unroll 1")
#else
#define EDGE_UNROLL
#define EDGE_ROLL
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

EDGE_FUNCTION int read(const int* address) {
#if defined(__CUDA_ARCH__)
    return __ldg(address);
#else
    return *address;
#endif
}

EDGE_FUNCTION float to_float(float value) { return value; }

EDGE_FUNCTION float to_float(__half value) { return __half2float(value); }

EDGE_FUNCTION __half read_raw(const __half* address) {
#if defined(__CUDA_ARCH__)
    return __ldg(address);
#else
    return *address;
#endif
}

EDGE_FUNCTION float read_raw(const float* address) { return read(address); }

EDGE_FUNCTION float read(const __half* address) { return __half2float(read_raw(address)); }

}  // namespace edge
