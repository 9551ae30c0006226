// Shared by the Gaussian kernels with and without a prior; grid.h maps threads to elements, vec4.cuh accesses memory.
//
// kDefaultVariant: sigma = exp(logvar / 2) and a KL per row, as in training, known at compile time; the other variants are
// selected at run time.
#pragma once

#include "cuda/launch.cuh"
#include "noise.h"
#include "prior.h"

namespace vae {
namespace {

template <class Z, bool kDefaultVariant>
constexpr int kForwardBlocksPerSm = kDefaultVariant ? kMinBlocksPerSm<Z> : kFewBlocksPerSm;
template <class Z, bool kDefaultVariant>
constexpr int kBackwardBlocksPerSm = kDefaultVariant && std::is_same_v<Z, float> ? 4 : kForwardBlocksPerSm<Z, kDefaultVariant>;

__device__ Vec4<float> noise(NoiseKey key, int64_t sample, uint32_t row, uint32_t block) {
  const Normals n = normals(key, static_cast<uint32_t>(sample), row, block);
  return {{n.low.even, n.low.odd, n.high.even, n.high.odd}};
}

// mu and logvar of a block; slope: dlogvar/drho, with kSoftplus.
template <class T>
struct LoadedInputs {
  Vec4<T> mu, logvar, slope;
};

template <class Z, bool kVector, class T = Arithmetic<Z>>
__device__ LoadedInputs<T> load_inputs(const Inputs& in, Scale scale, int64_t row, uint32_t block) {
  LoadedInputs<T> x{load<kVector, T>(static_cast<const Z*>(in.mu) + row * in.mu_stride, block, in.dim),
                    load<kVector, T>(static_cast<const Z*>(in.logvar) + row * in.logvar_stride, block, in.dim),
                    {{T(1), T(1), T(1), T(1)}}};
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

// The posterior after mapping the prior to N(0, 1); sigma: exp(logvar / 2).
template <class T>
struct LoadedWhitened {
  Vec4<T> mu, logvar, sigma;
};

// The prior of a block.
template <class T>
struct LoadedPrior {
  Vec4<T> mu, logvar;
};

template <class Z, bool kVector, class T = Arithmetic<Z>>
__device__ LoadedPrior<T> load_prior(const Prior& prior, int64_t row, uint32_t block, int64_t dim) {
  return {load<kVector, T>(static_cast<const Z*>(prior.mu) + row * prior.mu_stride, block, dim),
          load<kVector, T>(static_cast<const Z*>(prior.logvar) + row * prior.logvar_stride, block, dim)};
}

// Forward, or ForwardWithPrior.
template <class Z, bool kVector, bool kDefaultVariant, class Call>
__global__ void __launch_bounds__(kThreads, kForwardBlocksPerSm<Z, kDefaultVariant>)
    forward_kernel(const Call call, const Grid grid) {
  using T = Arithmetic<Z>;
  const Scale scale = kDefaultVariant ? Scale::kExp : call.scale;
  const Output output = kDefaultVariant ? Output::kKlSum : call.output;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const int lane = grid.lane(threadIdx.x);
  T* sums = static_cast<T*>(call.kl);

  // A log-ratio is summed per sample. A KL does not depend on the sample and is summed once, with the first sample. Samples are
  // divided among the thread blocks of a grid column: blockIdx.y, blockIdx.y + gridDim.y, ...
  const bool of_sample = output == Output::kLogRatio;
  const int64_t step = of_sample ? call.samples : gridDim.y;
  for (int64_t row_group = blockIdx.x; row_group < grid.row_groups; row_group += gridDim.x) {
    const int64_t row = grid.row(row_group, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(row);
    for (int64_t first = blockIdx.y; first < call.samples; first += of_sample ? gridDim.y : call.samples) {
      const bool sums_kl = !of_sample && first == 0;
      T partial = 0;
      for (uint32_t block = lane; block < blocks; block += grid.lanes()) {
        const LoadedInputs<T> x = load_inputs<Z, kVector>(call, scale, row, block);
        Vec4<T> sigma, kl, z;
        [[maybe_unused]] LoadedWhitened<T> whitened;
        [[maybe_unused]] LoadedPrior<T> prior;
        if constexpr (Call::kPrior) prior = load_prior<Z, kVector>(call.prior, row, block, call.dim);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const Gaussian<T> gaussian(x.mu.at[j], x.logvar.at[j]);
          sigma.at[j] = gaussian.sigma();
          if constexpr (Call::kPrior) {
            const Whitened<T> posterior(x.mu.at[j], x.logvar.at[j], prior.mu.at[j], prior.logvar.at[j]);
            whitened.mu.at[j] = posterior.mu();
            whitened.logvar.at[j] = posterior.logvar;
            whitened.sigma.at[j] = posterior.gaussian().sigma();
            kl.at[j] = posterior.gaussian().kl();
          } else {
            kl.at[j] = gaussian.kl();
          }
        }
        if (output == Output::kKl && sums_kl) store<kVector>(kl, sums + row * call.dim, block, call.dim);
        for (int64_t k = first; k < call.samples; k += step) {
          const Vec4<float> eps = noise(key, k, noise_row, block);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const T e = static_cast<T>(eps.at[j]);
            z.at[j] = reparameterize(x.mu.at[j], sigma.at[j], e);
            if constexpr (Call::kPrior) {
              const T white = reparameterize(whitened.mu.at[j], whitened.sigma.at[j], e);
              if (of_sample) kl.at[j] = log_ratio(whitened.logvar.at[j], white, e);
            } else {
              if (of_sample) kl.at[j] = log_ratio(x.logvar.at[j], z.at[j], e);
            }
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

// The upstream gradients of a block: grad_z and grad_z eps, summed over samples, and grad_kl or the sum of grad_ratio.
template <class T>
struct Upstream {
  Vec4<T> z, z_eps, kl_or_ratio;
};

template <class Z, bool kVector, class T = Arithmetic<Z>>
__device__ Upstream<T> accumulate(const Backward& call, Output output, const LoadedInputs<T>& x, NoiseKey key, int64_t row,
                                  uint32_t block) {
  const Z* grad_z_rows = static_cast<const Z*>(call.grad_z);
  const T* grad_kl_rows = static_cast<const T*>(call.grad_kl);
  const bool has_grad_ratio = grad_kl_rows != nullptr && output == Output::kLogRatio;
  const int64_t samples = grad_z_rows != nullptr || has_grad_ratio ? call.samples : 0;
  const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(row);
  Upstream<T> sum{};
  for (int64_t k = 0; k < samples; ++k) {
    Vec4<T> grad_z{};
    if (grad_z_rows != nullptr) {
      grad_z = load<kVector, T>(grad_z_rows + (k * call.rows + row) * call.dim, block, call.dim);
    }
    const Vec4<float> eps = noise(key, k, noise_row, block);
    if (has_grad_ratio) {
      const T grad_ratio = grad_kl_rows[k * call.rows + row];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Exp<T> sigma = Gaussian<T>(x.mu.at[j], x.logvar.at[j]).e;
        grad_z.at[j] = add_log_ratio_gradient(grad_z.at[j], grad_ratio, x.mu.at[j], sigma, static_cast<T>(eps.at[j]));
        sum.kl_or_ratio.at[j] += grad_ratio;
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      // A single sample is not added to 0: 0 + -0 is not -0.
      const T product = grad_z.at[j] * static_cast<T>(eps.at[j]);
      sum.z.at[j] = samples == 1 ? grad_z.at[j] : sum.z.at[j] + grad_z.at[j];
      sum.z_eps.at[j] = samples == 1 ? product : sum.z_eps.at[j] + product;
    }
  }
  if (grad_kl_rows != nullptr && output == Output::kKl) {
    sum.kl_or_ratio = load<kVector, T>(grad_kl_rows + row * call.dim, block, call.dim);
  } else if (grad_kl_rows != nullptr && output == Output::kKlSum) {
    const T of_row = grad_kl_rows[row];
    sum.kl_or_ratio = {{of_row, of_row, of_row, of_row}};
  }
  return sum;
}

// Whether the rows of a call can be accessed four elements at a time.
template <class Z>
bool vectors(const Forward& c) {
  return c.dim % 4 == 0 && aligned<Z>(c.mu, c.mu_stride) && aligned<Z>(c.logvar, c.logvar_stride) && aligned<Z>(c.z, c.dim) &&
         (c.output != Output::kKl || aligned<Arithmetic<Z>>(c.kl, c.dim));
}

template <class Z>
bool vectors(const Backward& c) {
  return c.dim % 4 == 0 && aligned<Z>(c.mu, c.mu_stride) && aligned<Z>(c.logvar, c.logvar_stride) &&
         aligned<Z>(c.grad_z, c.dim) && aligned<Z>(c.grad_mu, c.grad_stride) && aligned<Z>(c.grad_logvar, c.grad_stride) &&
         (c.output != Output::kKl || aligned<Arithmetic<Z>>(c.grad_kl, c.dim));
}

}  // namespace
}  // namespace vae
