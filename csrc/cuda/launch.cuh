// Shared by the kernels' files: types, how much of a multiprocessor a kernel may use, and the launch.
//
// kVector, where it appears: four elements are accessed at once.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/grid.h"
#include "cuda/vec4.cuh"
#include "kernels.h"

namespace vae {
namespace {

template <class Z>
using Arithmetic = std::conditional_t<std::is_same_v<Z, double>, double, float>;

// Thread blocks that a multiprocessor must have room for at once, which limits the registers per thread. Of four and five, the
// faster one on an H100: five for the forward pass by 2 to 3% and for the backward pass of bfloat16 by 5 to 6%; four for that
// of float32, by 5 to 8%.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kUsualBlocksPerSm = 1024 / kThreads;  // the maximum on Turing
#else
constexpr int kUsualBlocksPerSm = 5;
#endif
constexpr int kFewBlocksPerSm = 2;
template <class Z>
constexpr int kMinBlocksPerSm = std::is_same_v<Z, double> ? kFewBlocksPerSm : kUsualBlocksPerSm;

template <class Call>
using Kernel = void (*)(Call, Grid);

// Thread blocks per multiprocessor of the GPU: several times as many as it has room for, so that it is busy until the end. Each
// processes many row groups, and reads the key once.
constexpr int kBlocksEach = 16;

// samples: how many blocks may share the samples of a row group, if there are too few row groups to fill the GPU.
template <class Call>
void launch(const std::string& name, Kernel<Call> kernel, const Call& call, void* stream, int64_t samples = 1) {
  const auto check = [&name](cudaError_t error) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // clears it: torch's next check would blame another kernel
    throw std::runtime_error("vae_ext, " + name + " on CUDA: " + cudaGetErrorString(error));
  };
  int device, multiprocessors;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const Grid grid(call.rows, call.dim);
  const int64_t resident = int64_t{kUsualBlocksPerSm} * multiprocessors;
  const int64_t columns = std::clamp<int64_t>(resident / grid.row_groups, 1, std::min<int64_t>(samples, 65535));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(std::min<int64_t>(grid.row_groups, int64_t{kBlocksEach} * multiprocessors)),
                        static_cast<unsigned>(columns));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, call, grid));
}

// Calls run with a value of the type, and the type's name.
template <class F>
void with_type(Dtype dtype, const F& run) {
  switch (dtype) {
    case Dtype::kFloat32: return run(float{}, "float32");
    case Dtype::kFloat64: return run(double{}, "float64");
    case Dtype::kBFloat16: return run(torch::headeronly::BFloat16{}, "bfloat16");
    case Dtype::kFloat16: return run(torch::headeronly::Half{}, "float16");
  }
}

}  // namespace
}  // namespace vae
