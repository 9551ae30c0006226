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
    __syncthreads();  // the sum before this one has been read
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

// mu and logvar of a block; slope: dlogvar/drho, with kSoftplus.
template <class T>
struct Loaded {
  Four<T> mu, logvar, slope;
};

template <class Z, class T = Arithmetic<Z>>
__device__ Loaded<T> load_inputs(const Inputs& in, int64_t row, int64_t block) {
  Loaded<T> x{load<T>(static_cast<const Z*>(in.mu) + row * in.mu_stride, block, in.dim),
              load<T>(static_cast<const Z*>(in.logvar) + row * in.logvar_stride, block, in.dim),
              {}};
  if (in.scale == Scale::kSoftplus) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Softplus<T> scale = softplus(x.logvar.at[j]);
      // Past the row's end logvar stays 0, where the KL is 0.
      x.logvar.at[j] = 4 * block + j < in.dim ? scale.logvar : T(0);
      x.slope.at[j] = scale.slope;
    }
  }
  return x;
}

template <class T>
__device__ T sum_of(const Four<T>& four) {
  return (four.at[0] + four.at[1]) + (four.at[2] + four.at[3]);
}

template <class Z>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward call, int lanes) {
  using T = Arithmetic<Z>;
  const Place p = place(lanes);
  const bool in_range = p.row < call.rows;
  const int64_t blocks = in_range ? (call.dim + 3) / 4 : 0;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(p.row);
  T* sums = static_cast<T*>(call.kl);

  // A log-ratio is summed a sample at a time; a KL does not depend on the sample and is summed once.
  const int64_t passes = call.output == Output::kLogRatio ? call.samples : 1;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = call.output == Output::kLogRatio ? pass : 0;
    const int64_t last = call.output == Output::kLogRatio ? pass + 1 : call.samples;
    T partial = 0;
    for (int64_t block = p.lane; block < blocks; block += p.lanes) {
      const Loaded<T> x = load_inputs<Z>(call, p.row, block);
      Four<T> sigma, kl, z;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Gaussian<T> gaussian(x.mu.at[j], x.logvar.at[j]);
        sigma.at[j] = gaussian.sigma();
        kl.at[j] = gaussian.kl();
      }
      if (call.output == Output::kKl) store(kl, sums + p.row * call.dim, block, call.dim);
      for (int64_t k = first; k < last; ++k) {
        const Four<float> eps = noise(key, k, noise_row, block);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          z.at[j] = x.mu.at[j] + sigma.at[j] * static_cast<T>(eps.at[j]);
          if (call.output == Output::kLogRatio) kl.at[j] = log_ratio(x.logvar.at[j], z.at[j], static_cast<T>(eps.at[j]));
        }
        store(z, static_cast<Z*>(call.z) + (k * call.rows + p.row) * call.dim, block, call.dim);
      }
      partial += sum_of(kl);
    }
    if (call.output == Output::kKl) return;
    const T sum = sum_by_halves(partial, p.lane, p.lanes);
    if (p.lane == 0 && in_range) sums[first * call.rows + p.row] = sum;
  }
}

template <class Z>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward call, int lanes) {
  using T = Arithmetic<Z>;
  const Place p = place(lanes);
  if (p.row >= call.rows) return;
  const int64_t blocks = (call.dim + 3) / 4;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const Z* grad_z_rows = static_cast<const Z*>(call.grad_z);
  const T* grad_kl_rows = static_cast<const T*>(call.grad_kl);
  const bool has_grad_kl = grad_kl_rows != nullptr && call.output != Output::kLogRatio;
  const bool has_grad_ratio = grad_kl_rows != nullptr && call.output == Output::kLogRatio;
  const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(p.row);
  for (int64_t block = p.lane; block < blocks; block += p.lanes) {
    const Loaded<T> x = load_inputs<Z>(call, p.row, block);
    Four<T> sum_z{}, sum_z_eps{}, grad_kl{};
    for (int64_t k = 0; (grad_z_rows != nullptr || has_grad_ratio) && k < call.samples; ++k) {
      const Four<float> eps = noise(key, k, noise_row, block);
      Four<T> grad_z{};
      if (grad_z_rows != nullptr) grad_z = load<T>(grad_z_rows + (k * call.rows + p.row) * call.dim, block, call.dim);
      if (has_grad_ratio) {
        // d log_ratio / dz = -z; its explicit part, d / dlogvar = 1 / 2, is summed in grad_kl.
        const T of_row = grad_kl_rows[k * call.rows + p.row];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const T sigma = Gaussian<T>(x.mu.at[j], x.logvar.at[j]).sigma();
          grad_z.at[j] -= of_row * (x.mu.at[j] + sigma * static_cast<T>(eps.at[j]));
          grad_kl.at[j] += of_row;
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum_z.at[j] += grad_z.at[j];
        sum_z_eps.at[j] += grad_z.at[j] * static_cast<T>(eps.at[j]);
      }
    }
    if (has_grad_kl && call.output == Output::kKl) grad_kl = load<T>(grad_kl_rows + p.row * call.dim, block, call.dim);
    Four<T> grad_mu, grad_logvar;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (has_grad_kl && call.output == Output::kKlSum) grad_kl.at[j] = grad_kl_rows[p.row];
      const Gaussian<T> gaussian(x.mu.at[j], x.logvar.at[j]);
      // Without a gradient of kl an infinite mu must not make 0 inf = NaN.
      grad_mu.at[j] = has_grad_kl ? gaussian.grad_mu(sum_z.at[j], grad_kl.at[j]) : sum_z.at[j];
      const T twice_explicit = has_grad_kl ? gaussian.twice_from_kl(grad_kl.at[j]) : grad_kl.at[j];
      grad_logvar.at[j] = gaussian.grad_logvar(sum_z_eps.at[j], twice_explicit);
      if (call.scale == Scale::kSoftplus) grad_logvar.at[j] *= x.slope.at[j];
    }
    store(grad_mu, static_cast<Z*>(call.grad_mu) + p.row * call.grad_stride, block, call.dim);
    store(grad_logvar, static_cast<Z*>(call.grad_logvar) + p.row * call.grad_stride, block, call.dim);
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
