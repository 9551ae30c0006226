// A thread's four neighbours on the GPU: loads, stores, and sums over the row; the counterpart of cpu/tile.h.
//
// kVector: each access of four elements is a single one of 16 bytes (two in float64, half of one in the half types, a quarter
// for pixels), which needs rows aligned to its size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/grid.h"

namespace vae {
namespace {

template <class T>
struct Vec4 {
  T at[4];
};

constexpr size_t kWidestAccess = 16;

// Four elements as stored in memory.
template <class Z>
struct alignas(4 * sizeof(Z) < kWidestAccess ? 4 * sizeof(Z) : kWidestAccess) Packed {
  Z at[4];
};

// Elements 4 block .. 4 block + 3 of a row; zero past its end.
template <bool kVector, class T, class Z>
__device__ Vec4<T> load(const Z* row, uint32_t block, int64_t dim) {
  Vec4<T> vec;
  const int64_t first = 4 * static_cast<int64_t>(block);
  if constexpr (kVector) {
    const Packed<Z> packed = *reinterpret_cast<const Packed<Z>*>(row + first);
#pragma unroll
    for (int j = 0; j < 4; ++j) vec.at[j] = static_cast<T>(packed.at[j]);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) vec.at[j] = first + j < dim ? static_cast<T>(row[first + j]) : T(0);
  }
  return vec;
}

template <bool kVector, class T, class Z>
__device__ void store(const Vec4<T>& vec, Z* row, uint32_t block, int64_t dim) {
  const int64_t first = 4 * static_cast<int64_t>(block);
  if constexpr (kVector) {
    Packed<Z> packed;
#pragma unroll
    for (int j = 0; j < 4; ++j) packed.at[j] = static_cast<Z>(vec.at[j]);
    *reinterpret_cast<Packed<Z>*>(row + first) = packed;
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (first + j < dim) row[first + j] = static_cast<Z>(vec.at[j]);
    }
  }
}

// Whether every row of [.., dim] is aligned for accesses of four elements.
template <class Z>
bool aligned(const void* base, int64_t stride) {
  return reinterpret_cast<uintptr_t>(base) % alignof(Packed<Z>) == 0 && stride % 4 == 0;
}

template <class T>
__device__ T sum_of(const Vec4<T>& vec) {
  return (vec.at[0] + vec.at[1]) + (vec.at[2] + vec.at[3]);
}

constexpr int kWarp = 32;

// partial[i] += partial[i + w], w = lanes / 2 .. 1: the row's sum, in its lane 0. All threads of the block participate.
template <class T>
__device__ T sum_by_halves(T partial, int lane, int lanes) {
  __shared__ T shared[kThreads];
  if (lanes > kWarp) {
    __syncthreads();  // the previous sum has been read
    shared[threadIdx.x] = partial;
    for (int width = lanes / 2; width >= kWarp; width /= 2) {
      __syncthreads();
      if (lane < width) shared[threadIdx.x] += shared[threadIdx.x + width];
    }
    partial = shared[threadIdx.x];  // written last by this thread
  }
  const int segment = lanes < kWarp ? lanes : kWarp;
  for (int width = segment / 2; width > 0; width /= 2) {
    partial += __shfl_down_sync(0xffffffffu, partial, width, segment);
  }
  return partial;
}

}  // namespace
}  // namespace vae
