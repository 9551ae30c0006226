// The loops on the GPU: one thread, one Philox block, four neighbouring elements.
//
// A row is served by a power of two of threads, as many as it has blocks, up to kPartials: short rows share a warp, long
// ones take the whole thread block and go round. Thread j holds the partial sum j that kernels.h speaks of, so a row's KL
// has the bits that it has on the CPU.
#include "kernels.h"

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "gaussian.h"
#include "noise.h"

namespace vae {
namespace {

constexpr int kThreads = kPartials;
constexpr int kWarp = 32;

template <class Z>
using Arithmetic = std::conditional_t<std::is_same_v<Z, double>, double, float>;

// This thread's row, its place among the row's threads, and the step from one of its blocks to the next.
struct Place {
  int64_t row;
  int lane, lanes;
};

__device__ Place place(int lanes) {
  const int rows = kThreads / lanes;
  return {static_cast<int64_t>(blockIdx.x) * rows + threadIdx.x / lanes, static_cast<int>(threadIdx.x % lanes), lanes};
}

// partial[i] += partial[i + w], w = lanes / 2 .. 1: the row's sum, in its lane 0. All threads of the block take part.
template <class T>
__device__ T sum_by_halves(T partial, int lane, int lanes) {
  __shared__ T shared[kThreads];
  if (lanes > kWarp) {
    shared[threadIdx.x] = partial;
    for (int width = lanes / 2; width >= kWarp; width /= 2) {
      __syncthreads();
      if (lane < width) shared[threadIdx.x] += shared[threadIdx.x + width];
    }
    __syncthreads();
    partial = shared[threadIdx.x];
  }
  const int segment = lanes < kWarp ? lanes : kWarp;
  for (int width = segment / 2; width > 0; width /= 2) {
    partial += __shfl_down_sync(0xffffffffu, partial, width, segment);
  }
  return partial;
}

template <class T>
struct Four {
  T at[4];
};

// Elements 4 block .. 4 block + 3 of a row; zero past its end.
template <class T, class Z>
__device__ Four<T> load(const Z* row, int64_t block, int64_t dim) {
  Four<T> four;
#pragma unroll
  for (int j = 0; j < 4; ++j) four.at[j] = 4 * block + j < dim ? static_cast<T>(row[4 * block + j]) : T(0);
  return four;
}

template <class T, class Z>
__device__ void store(const Four<T>& four, Z* row, int64_t block, int64_t dim) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (4 * block + j < dim) row[4 * block + j] = static_cast<Z>(four.at[j]);
  }
}

__device__ Four<float> noise(NoiseKey key, int64_t sample, uint32_t row, int64_t block) {
  const Normals n = normals(key, static_cast<uint32_t>(sample), row, static_cast<uint32_t>(block));
  return {{n.low.even, n.low.odd, n.high.even, n.high.odd}};
}

template <class Z>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward call, int lanes) {
  using T = Arithmetic<Z>;
  const Place p = place(lanes);
  const int64_t blocks = (call.dim + 3) / 4;
  T partial = 0;
  if (p.row < call.rows) {
    const NoiseKey key = noise_key(call.key[0], call.key[1]);
    const Z* mu_row = static_cast<const Z*>(call.mu) + p.row * call.mu_stride;
    const Z* logvar_row = static_cast<const Z*>(call.logvar) + p.row * call.logvar_stride;
    const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(p.row);
    for (int64_t block = p.lane; block < blocks; block += p.lanes) {
      const Four<T> mu = load<T>(mu_row, block, call.dim);
      const Four<T> logvar = load<T>(logvar_row, block, call.dim);
      Four<T> sigma, kl, z;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Gaussian<T> gaussian(mu.at[j], logvar.at[j]);
        sigma.at[j] = gaussian.sigma();
        kl.at[j] = gaussian.kl();
      }
      if (!call.sum_kl) store(kl, static_cast<T*>(call.kl) + p.row * call.dim, block, call.dim);
      partial += (kl.at[0] + kl.at[1]) + (kl.at[2] + kl.at[3]);
      for (int64_t k = 0; k < call.samples; ++k) {
        const Four<float> eps = noise(key, k, noise_row, block);
#pragma unroll
        for (int j = 0; j < 4; ++j) z.at[j] = mu.at[j] + sigma.at[j] * static_cast<T>(eps.at[j]);
        store(z, static_cast<Z*>(call.z) + (k * call.rows + p.row) * call.dim, block, call.dim);
      }
    }
  }
  if (call.sum_kl) {
    const T sum = sum_by_halves(partial, p.lane, p.lanes);
    if (p.lane == 0 && p.row < call.rows) static_cast<T*>(call.kl)[p.row] = sum;
  }
}

template <class Z>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward call, int lanes) {
  using T = Arithmetic<Z>;
  const Place p = place(lanes);
  if (p.row >= call.rows) return;
  const int64_t blocks = (call.dim + 3) / 4;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const Z* mu_row = static_cast<const Z*>(call.mu) + p.row * call.mu_stride;
  const Z* logvar_row = static_cast<const Z*>(call.logvar) + p.row * call.logvar_stride;
  const Z* grad_z_rows = static_cast<const Z*>(call.grad_z);
  const T* grad_kl_rows = static_cast<const T*>(call.grad_kl);
  const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(p.row);
  for (int64_t block = p.lane; block < blocks; block += p.lanes) {
    Four<T> sum_z{}, sum_z_eps{}, grad_kl{};
    for (int64_t k = 0; grad_z_rows != nullptr && k < call.samples; ++k) {
      const Four<T> grad_z = load<T>(grad_z_rows + (k * call.rows + p.row) * call.dim, block, call.dim);
      const Four<float> eps = noise(key, k, noise_row, block);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum_z.at[j] += grad_z.at[j];
        sum_z_eps.at[j] += grad_z.at[j] * static_cast<T>(eps.at[j]);
      }
    }
    if (grad_kl_rows != nullptr && !call.sum_kl) {
      grad_kl = load<T>(grad_kl_rows + p.row * call.dim, block, call.dim);
    } else if (grad_kl_rows != nullptr) {
#pragma unroll
      for (int j = 0; j < 4; ++j) grad_kl.at[j] = grad_kl_rows[p.row];
    }
    const Four<T> mu = load<T>(mu_row, block, call.dim);
    const Four<T> logvar = load<T>(logvar_row, block, call.dim);
    Four<T> grad_mu, grad_logvar;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Gaussian<T> gaussian(mu.at[j], logvar.at[j]);
      // Without a gradient of kl an infinite mu must not make 0 inf = NaN.
      grad_mu.at[j] = grad_kl_rows != nullptr ? gaussian.grad_mu(sum_z.at[j], grad_kl.at[j]) : sum_z.at[j];
      grad_logvar.at[j] = gaussian.grad_logvar(sum_z_eps.at[j], grad_kl.at[j]);
    }
    store(grad_mu, static_cast<Z*>(call.grad_mu) + p.row * call.dim, block, call.dim);
    store(grad_logvar, static_cast<Z*>(call.grad_logvar) + p.row * call.dim, block, call.dim);
  }
}

template <class Call>
void launch(const char* name, void (*kernel)(Call, int), const Call& call, void* stream) {
  const int64_t blocks = (call.dim + 3) / 4;
  int lanes = 1;
  while (lanes < kThreads && lanes < blocks) lanes *= 2;
  const int64_t rows = kThreads / lanes;
  const int64_t grid = (call.rows + rows - 1) / rows;
  kernel<<<static_cast<unsigned>(grid), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(call, lanes);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("vae_ext, ") + name + " on CUDA: " + cudaGetErrorString(error));
  }
}

}  // namespace

namespace cuda {

void forward(const Forward& call, void* stream) {
  switch (call.dtype) {
    case Dtype::kFloat32: return launch("forward, float32", forward_kernel<float>, call, stream);
    case Dtype::kFloat64: return launch("forward, float64", forward_kernel<double>, call, stream);
    case Dtype::kBFloat16: return launch("forward, bfloat16", forward_kernel<torch::headeronly::BFloat16>, call, stream);
    case Dtype::kFloat16: return launch("forward, float16", forward_kernel<torch::headeronly::Half>, call, stream);
  }
}

void backward(const Backward& call, void* stream) {
  switch (call.dtype) {
    case Dtype::kFloat32: return launch("backward, float32", backward_kernel<float>, call, stream);
    case Dtype::kFloat64: return launch("backward, float64", backward_kernel<double>, call, stream);
    case Dtype::kBFloat16: return launch("backward, bfloat16", backward_kernel<torch::headeronly::BFloat16>, call, stream);
    case Dtype::kFloat16: return launch("backward, float16", backward_kernel<torch::headeronly::Half>, call, stream);
  }
}

}  // namespace cuda
}  // namespace vae
