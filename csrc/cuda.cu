// The loops on the GPU; grid.h says which thread does which element, four.cuh how it moves them.
//
// Two things are decided when a kernel is compiled. kVector: four elements are moved at once. kPlain: the operator as training
// uses it, sigma = exp(logvar / 2) and a KL a row; the variants are decided as it runs.
#include "kernels.h"

#include <cuda_runtime.h>
#include <torch/headeronly/macros/Macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "bernoulli.h"
#include "four.cuh"
#include "gaussian.h"
#include "grid.h"
#include "noise.h"

namespace vae {
namespace {

template <class Z>
using Arithmetic = std::conditional_t<std::is_same_v<Z, double>, double, float>;

// Thread blocks that a multiprocessor must have room for at once, which bounds the registers of each thread. Of four and five, what
// was faster on an H100: with five the forward pass by 2 to 3%, the backward pass of bfloat16 by 5 to 6%; with four that of float32,
// by 5 to 8%.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kMostResident = 1024 / kThreads;  // all that Turing has room for
#else
constexpr int kMostResident = 5;
#endif
enum class Pass { kForward, kBackward };
template <class Z, Pass kPass = Pass::kForward, bool kPlain = true>
constexpr int kResident = !kPlain || std::is_same_v<Z, double>                     ? 2
                          : kPass == Pass::kBackward && std::is_same_v<Z, float> ? 4
                                                                                 : kMostResident;

__device__ Four<float> noise(NoiseKey key, int64_t sample, uint32_t row, uint32_t block) {
  const Normals n = normals(key, static_cast<uint32_t>(sample), row, block);
  return {{n.low.even, n.low.odd, n.high.even, n.high.odd}};
}

// mu and logvar of a block; slope: dlogvar/drho, with kSoftplus.
template <class T>
struct Loaded {
  Four<T> mu, logvar, slope;
};

template <class Z, bool kVector, class T = Arithmetic<Z>>
__device__ Loaded<T> load_inputs(const Inputs& in, Scale scale, int64_t row, uint32_t block) {
  Loaded<T> x{load<kVector, T>(static_cast<const Z*>(in.mu) + row * in.mu_stride, block, in.dim),
              load<kVector, T>(static_cast<const Z*>(in.logvar) + row * in.logvar_stride, block, in.dim),
              {}};
  if (scale == Scale::kSoftplus) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Softplus<T> soft = softplus(x.logvar.at[j]);
      // Past the row's end logvar stays 0, where the KL is 0.
      x.logvar.at[j] = 4 * static_cast<int64_t>(block) + j < in.dim ? soft.logvar : T(0);
      x.slope.at[j] = soft.slope;
    }
  }
  return x;
}

template <class Z, bool kVector, bool kPlain>
__global__ void __launch_bounds__(kThreads, kResident<Z, Pass::kForward, kPlain>) forward_kernel(const Forward call, const Grid grid) {
  using T = Arithmetic<Z>;
  const Scale scale = kPlain ? Scale::kExp : call.scale;
  const Output output = kPlain ? Output::kKlSum : call.output;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const int lane = grid.lane(threadIdx.x);
  T* sums = static_cast<T*>(call.kl);

  // A log-ratio is summed a sample at a time. A KL does not depend on the sample and is summed once, where the first one is drawn.
  // Samples are shared among the blocks of a column of the grid: blockIdx.y, blockIdx.y + gridDim.y, ...
  const bool of_sample = output == Output::kLogRatio;
  const int64_t step = of_sample ? call.samples : gridDim.y;
  for (int64_t team = blockIdx.x; team < grid.teams; team += gridDim.x) {
    const int64_t row = grid.row(team, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(row);
    for (int64_t first = blockIdx.y; first < call.samples; first += of_sample ? gridDim.y : call.samples) {
      const bool sums_kl = !of_sample && first == 0;
      T partial = 0;
      for (uint32_t block = lane; block < blocks; block += grid.lanes()) {
        const Loaded<T> x = load_inputs<Z, kVector>(call, scale, row, block);
        Four<T> sigma, kl, z;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const Gaussian<T> gaussian(x.mu.at[j], x.logvar.at[j]);
          sigma.at[j] = gaussian.sigma();
          kl.at[j] = gaussian.kl();
        }
        if (output == Output::kKl && sums_kl) store<kVector>(kl, sums + row * call.dim, block, call.dim);
        for (int64_t k = first; k < call.samples; k += step) {
          const Four<float> eps = noise(key, k, noise_row, block);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            z.at[j] = x.mu.at[j] + sigma.at[j] * static_cast<T>(eps.at[j]);
            if (of_sample) kl.at[j] = log_ratio(x.logvar.at[j], z.at[j], static_cast<T>(eps.at[j]));
          }
          store<kVector>(z, static_cast<Z*>(call.z) + (k * call.rows + row) * call.dim, block, call.dim);
        }
        partial += sum_of(kl);
      }
      if (output == Output::kKl || !(of_sample || sums_kl)) continue;
      const T sum = sum_by_halves(partial, lane, grid.lanes());
      if (lane == 0 && row < call.rows) sums[first * call.rows + row] = sum;
    }
  }
}

template <class Z, bool kVector, bool kPlain>
__global__ void __launch_bounds__(kThreads, kResident<Z, Pass::kBackward, kPlain>) backward_kernel(const Backward call, const Grid grid) {
  using T = Arithmetic<Z>;
  const Scale scale = kPlain ? Scale::kExp : call.scale;
  const Output output = kPlain ? Output::kKlSum : call.output;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const Z* grad_z_rows = static_cast<const Z*>(call.grad_z);
  const T* grad_kl_rows = static_cast<const T*>(call.grad_kl);
  const bool has_grad_kl = grad_kl_rows != nullptr && output != Output::kLogRatio;
  const bool has_grad_ratio = grad_kl_rows != nullptr && output == Output::kLogRatio;
  const int64_t samples = grad_z_rows != nullptr || has_grad_ratio ? call.samples : 0;
  for (int64_t team = blockIdx.x; team < grid.teams; team += gridDim.x) {
    const int64_t row = grid.row(team, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(row);
    for (uint32_t block = grid.lane(threadIdx.x); block < blocks; block += grid.lanes()) {
      const Loaded<T> x = load_inputs<Z, kVector>(call, scale, row, block);
      Four<T> sum_z{}, sum_z_eps{}, grad_kl{};
      for (int64_t k = 0; k < samples; ++k) {
        Four<T> grad_z{};
        if (grad_z_rows != nullptr) {
          grad_z = load<kVector, T>(grad_z_rows + (k * call.rows + row) * call.dim, block, call.dim);
        }
        const Four<float> eps = noise(key, k, noise_row, block);
        if (has_grad_ratio) {
          // d log_ratio / dz = -z = -(mu + sigma eps), with sigma in its two factors: it may overflow where the product does
          // not. What the ratio has without z, d / dlogvar = 1 / 2, is summed in grad_kl.
          const T weight = grad_kl_rows[k * call.rows + row];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const Exp<T> e = Gaussian<T>(x.mu.at[j], x.logvar.at[j]).e;
            grad_z.at[j] -= weight * x.mu.at[j] + e.times(weight * static_cast<T>(eps.at[j]));
            grad_kl.at[j] += weight;
          }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          // One sample is no sum: 0 + -0 is not -0.
          const T product = grad_z.at[j] * static_cast<T>(eps.at[j]);
          sum_z.at[j] = samples == 1 ? grad_z.at[j] : sum_z.at[j] + grad_z.at[j];
          sum_z_eps.at[j] = samples == 1 ? product : sum_z_eps.at[j] + product;
        }
      }
      if (has_grad_kl && output == Output::kKl) {
        grad_kl = load<kVector, T>(grad_kl_rows + row * call.dim, block, call.dim);
      } else if (has_grad_kl) {
        const T of_row = grad_kl_rows[row];
        grad_kl = {{of_row, of_row, of_row, of_row}};
      }
      Four<T> grad_mu, grad_logvar;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Gaussian<T> gaussian(x.mu.at[j], x.logvar.at[j]);
        // Without a gradient of kl an infinite mu must not make 0 inf = NaN.
        grad_mu.at[j] = has_grad_kl ? gaussian.grad_mu(sum_z.at[j], grad_kl.at[j]) : sum_z.at[j];
        // What comes for logvar; for rho, multiplied in before the exponential.
        const bool soft = scale == Scale::kSoftplus;
        const T explicit_grad = soft ? grad_kl.at[j] * x.slope.at[j] : grad_kl.at[j];
        const T z_eps = soft ? sum_z_eps.at[j] * x.slope.at[j] : sum_z_eps.at[j];
        grad_logvar.at[j] = gaussian.grad_logvar(z_eps, has_grad_kl ? gaussian.twice_from_kl(explicit_grad) : explicit_grad);
      }
      store<kVector>(grad_mu, static_cast<Z*>(call.grad_mu) + row * call.grad_stride, block, call.dim);
      store<kVector>(grad_logvar, static_cast<Z*>(call.grad_logvar) + row * call.grad_stride, block, call.dim);
    }
  }
}

// Logits and bytes of a block.
template <class T>
struct LoadedPixels {
  Four<T> logits, bytes;
};

template <class Z, bool kVector, class T = Arithmetic<Z>>
__device__ LoadedPixels<T> load_pixels(const Bernoulli& in, int64_t row, int64_t image, uint32_t block) {
  return {load<kVector, T>(static_cast<const Z*>(in.logits) + row * in.logits_stride, block, in.dim),
          load<kVector, T>(in.pixels + image * in.pixels_stride, block, in.dim)};
}

template <class Z, bool kVector>
__global__ void __launch_bounds__(kThreads, kResident<Z>) log_prob_kernel(const LogProb call, const Grid grid) {
  using T = Arithmetic<Z>;
  const int lane = grid.lane(threadIdx.x);
  for (int64_t team = blockIdx.x; team < grid.teams; team += gridDim.x) {
    const int64_t row = grid.row(team, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    const int64_t image = row % call.images;
    T partial = 0;
    for (uint32_t block = lane; block < blocks; block += grid.lanes()) {
      const LoadedPixels<T> x = load_pixels<Z, kVector>(call, row, image, block);
      Four<T> terms;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        // Past the row's end there is no pixel, and a logit of 0 would be ln 2.
        const bool inside = kVector || 4 * static_cast<int64_t>(block) + j < call.dim;
        terms.at[j] = inside ? BernoulliPixel<T>(x.bytes.at[j], x.logits.at[j]).log_prob() : T(0);
      }
      partial += sum_of(terms);
    }
    const T sum = sum_by_halves(partial, lane, grid.lanes());
    if (lane == 0 && row < call.rows) static_cast<T*>(call.log_prob)[row] = sum;
  }
}

template <class Z, bool kVector>
__global__ void __launch_bounds__(kThreads, kResident<Z>)
    log_prob_backward_kernel(const LogProbBackward call, const Grid grid) {
  using T = Arithmetic<Z>;
  for (int64_t team = blockIdx.x; team < grid.teams; team += gridDim.x) {
    const int64_t row = grid.row(team, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    const int64_t image = row % call.images;
    for (uint32_t block = grid.lane(threadIdx.x); block < blocks; block += grid.lanes()) {
      const LoadedPixels<T> x = load_pixels<Z, kVector>(call, row, image, block);
      const T weight = static_cast<const T*>(call.grad)[row];
      Four<T> grad;
#pragma unroll
      for (int j = 0; j < 4; ++j) grad.at[j] = BernoulliPixel<T>(x.bytes.at[j], x.logits.at[j]).grad_logit(weight);
      store<kVector>(grad, static_cast<Z*>(call.grad_logits) + row * call.dim, block, call.dim);
    }
  }
}

template <class Z, bool kVector>
__global__ void __launch_bounds__(kThreads, kResident<Z>)
    log_prob_and_gradient_kernel(const LogProbAndGradient call, const Grid grid) {
  using T = Arithmetic<Z>;
  const int lane = grid.lane(threadIdx.x);
  const T weight = static_cast<T>(call.weight);
  for (int64_t team = blockIdx.x; team < grid.teams; team += gridDim.x) {
    const int64_t row = grid.row(team, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    const int64_t image = row % call.images;
    T partial = 0;
    for (uint32_t block = lane; block < blocks; block += grid.lanes()) {
      const LoadedPixels<T> x = load_pixels<Z, kVector>(call, row, image, block);
      Four<T> terms, grad;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const BernoulliPixel<T> pixel(x.bytes.at[j], x.logits.at[j]);
        const bool inside = kVector || 4 * static_cast<int64_t>(block) + j < call.dim;
        terms.at[j] = inside ? pixel.log_prob() : T(0);
        grad.at[j] = pixel.grad_logit(weight);
      }
      store<kVector>(grad, static_cast<Z*>(call.grad_logits) + row * call.dim, block, call.dim);
      partial += sum_of(terms);
    }
    const T sum = sum_by_halves(partial, lane, grid.lanes());
    if (lane == 0 && row < call.rows) static_cast<T*>(call.log_prob)[row] = sum;
  }
}

template <bool kVector>
__global__ void __launch_bounds__(kThreads) take_pixels_kernel(const TakePixels call, const Grid grid) {
  const bool draws = call.key != nullptr;
  const NoiseKey key = draws ? noise_key(call.key[0], call.key[1]) : NoiseKey{};
  for (int64_t team = blockIdx.x; team < grid.teams; team += gridDim.x) {
    const int64_t row = grid.row(team, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    if (blocks == 0) continue;
    const int64_t image = call.index != nullptr ? call.index[row] : row;
    CUDA_KERNEL_ASSERT(0 <= image && image < call.images && "rows: expected indices of images");
    for (uint32_t block = grid.lane(threadIdx.x); block < blocks; block += grid.lanes()) {
      Four<uint8_t> bytes = load<kVector, uint8_t>(call.source + image * call.source_stride, block, call.dim);
      if (draws) {
        const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(row);
        const Words w = philox({block, noise_row, 0, key.step}, key.seed_low, key.seed_high);
        bytes = {{draw(bytes.at[0], w.x0), draw(bytes.at[1], w.x1), draw(bytes.at[2], w.x2), draw(bytes.at[3], w.x3)}};
      }
      store<kVector>(bytes, call.pixels + row * call.dim, block, call.dim);
      if (call.x == nullptr) continue;
      Four<float> x;
#pragma unroll
      for (int j = 0; j < 4; ++j) x.at[j] = grey(bytes.at[j]);
      store<kVector>(x, call.x + row * call.dim, block, call.dim);
    }
  }
}

// Whether a call's rows can be moved four elements at a time.
template <class Z>
bool vectors(const Forward& c) {
  return c.dim % 4 == 0 && aligned<Z>(c.mu, c.mu_stride) && aligned<Z>(c.logvar, c.logvar_stride) && aligned<Z>(c.z, c.dim) &&
         (c.output != Output::kKl || aligned<Arithmetic<Z>>(c.kl, c.dim));
}

template <class Z>
bool vectors(const Backward& c) {
  return c.dim % 4 == 0 && aligned<Z>(c.mu, c.mu_stride) && aligned<Z>(c.logvar, c.logvar_stride) && aligned<Z>(c.grad_z, c.dim) &&
         aligned<Z>(c.grad_mu, c.grad_stride) && aligned<Z>(c.grad_logvar, c.grad_stride) &&
         (c.output != Output::kKl || aligned<Arithmetic<Z>>(c.grad_kl, c.dim));
}

template <class Z>
bool vectors(const Bernoulli& c) {
  return c.dim % 4 == 0 && aligned<Z>(c.logits, c.logits_stride) && aligned<uint8_t>(c.pixels, c.pixels_stride);
}

template <class Z>
bool vectors(const LogProbBackward& c) {
  return vectors<Z>(static_cast<const Bernoulli&>(c)) && aligned<Z>(c.grad_logits, c.dim);
}

template <class Z>
bool vectors(const LogProbAndGradient& c) {
  return vectors<Z>(static_cast<const Bernoulli&>(c)) && aligned<Z>(c.grad_logits, c.dim);
}

bool vectors(const TakePixels& c) {
  return c.dim % 4 == 0 && aligned<uint8_t>(c.source, c.source_stride) && aligned<uint8_t>(c.pixels, c.dim) &&
         aligned<float>(c.x, c.dim);
}

template <class Call>
using Kernel = void (*)(Call, Grid);

// Thread blocks for each multiprocessor of the GPU: several rounds of those it has room for, so that it is busy to the end. Each
// takes many teams, and reads the key once.
constexpr int kBlocksEach = 16;

// samples: how many blocks may share the samples of a team, where there are too few teams to fill the GPU.
template <class Call>
void launch(const std::string& name, Kernel<Call> kernel, const Call& call, void* stream, int64_t samples = 1) {
  const auto check = [&name](cudaError_t error) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // forgets it: torch's next check would blame another kernel
    throw std::runtime_error("vae_ext, " + name + " on CUDA: " + cudaGetErrorString(error));
  };
  int device, multiprocessors;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const Grid grid(call.rows, call.dim);
  const int64_t resident = int64_t{kMostResident} * multiprocessors;
  const int64_t columns = std::clamp<int64_t>(resident / grid.teams, 1, std::clamp<int64_t>(samples, 1, 65535));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(std::min<int64_t>(grid.teams, int64_t{kBlocksEach} * multiprocessors)),
                        static_cast<unsigned>(columns));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, call, grid));
}

template <class Call>
bool plain(const Call& call) {
  return call.scale == Scale::kExp && call.output == Output::kKlSum;
}

template <class Z>
void run_typed(const std::string& dtype, const Forward& call, void* stream) {
  const Kernel<Forward> kernels[2][2] = {{forward_kernel<Z, false, false>, forward_kernel<Z, false, true>},
                                         {forward_kernel<Z, true, false>, forward_kernel<Z, true, true>}};
  launch("forward, " + dtype, kernels[vectors<Z>(call)][plain(call)], call, stream, call.samples);
}

template <class Z>
void run_typed(const std::string& dtype, const Backward& call, void* stream) {
  const Kernel<Backward> kernels[2][2] = {{backward_kernel<Z, false, false>, backward_kernel<Z, false, true>},
                                          {backward_kernel<Z, true, false>, backward_kernel<Z, true, true>}};
  launch("backward, " + dtype, kernels[vectors<Z>(call)][plain(call)], call, stream);
}

template <class Z>
void run_typed(const std::string& dtype, const LogProb& call, void* stream) {
  launch("log_prob, " + dtype, vectors<Z>(call) ? log_prob_kernel<Z, true> : log_prob_kernel<Z, false>, call, stream);
}

template <class Z>
void run_typed(const std::string& dtype, const LogProbBackward& call, void* stream) {
  const auto kernel = vectors<Z>(call) ? log_prob_backward_kernel<Z, true> : log_prob_backward_kernel<Z, false>;
  launch("log_prob_backward, " + dtype, kernel, call, stream);
}

template <class Z>
void run_typed(const std::string& dtype, const LogProbAndGradient& call, void* stream) {
  const auto kernel = vectors<Z>(call) ? log_prob_and_gradient_kernel<Z, true> : log_prob_and_gradient_kernel<Z, false>;
  launch("log_prob_and_gradient, " + dtype, kernel, call, stream);
}

template <class Call>
void run_any(const Call& call, void* stream) {
  switch (call.dtype) {
    case Dtype::kFloat32: return run_typed<float>("float32", call, stream);
    case Dtype::kFloat64: return run_typed<double>("float64", call, stream);
    case Dtype::kBFloat16: return run_typed<torch::headeronly::BFloat16>("bfloat16", call, stream);
    case Dtype::kFloat16: return run_typed<torch::headeronly::Half>("float16", call, stream);
  }
}

}  // namespace

namespace cuda {

void run(const Forward& call, void* stream) { run_any(call, stream); }
void run(const Backward& call, void* stream) { run_any(call, stream); }
void run(const LogProb& call, void* stream) { run_any(call, stream); }
void run(const LogProbBackward& call, void* stream) { run_any(call, stream); }
void run(const LogProbAndGradient& call, void* stream) { run_any(call, stream); }
void run(const TakePixels& call, void* stream) {
  launch("take_pixels", vectors(call) ? take_pixels_kernel<true> : take_pixels_kernel<false>, call, stream);
}

}  // namespace cuda
}  // namespace vae
