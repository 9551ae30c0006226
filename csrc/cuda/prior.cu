// The Gaussian kernels with a prior, including its gradients, on the GPU.
#include "cuda/gaussian.cuh"

namespace vae {
namespace {

// The gradients through the log-ratio: sums over the samples of those of z and of the whitened z.
template <class T>
struct RatioUpstream {
  Vec4<T> z, z_eps, white, white_eps, ratio;
};

template <class Z, bool kVector, class T = Arithmetic<Z>>
__device__ RatioUpstream<T> accumulate_ratio(const Backward& call, const LoadedInputs<T>& x, const LoadedPrior<T>& prior,
                                             NoiseKey key, int64_t row, uint32_t block) {
  const Z* grad_z_rows = static_cast<const Z*>(call.grad_z);
  const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(row);
  RatioUpstream<T> sum{};
  for (int64_t k = 0; k < call.samples; ++k) {
    const Vec4<float> eps = noise(key, k, noise_row, block);
    const T grad_ratio = static_cast<const T*>(call.grad_kl)[k * call.rows + row];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Whitened<T> posterior(x.mu.at[j], x.logvar.at[j], prior.mu.at[j], prior.logvar.at[j]);
      const T e = static_cast<T>(eps.at[j]);
      const T grad = log_ratio_gradient(grad_ratio, posterior.moved, posterior.weight, posterior.gaussian().e, e);
      sum.white.at[j] += grad;
      sum.white_eps.at[j] += grad * e;
      sum.ratio.at[j] += grad_ratio;
    }
    if (grad_z_rows == nullptr) continue;
    const auto grad_z = load<kVector, T>(grad_z_rows + (k * call.rows + row) * call.dim, block, call.dim);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sum.z.at[j] += grad_z.at[j];
      sum.z_eps.at[j] += grad_z.at[j] * static_cast<T>(eps.at[j]);
    }
  }
  return sum;
}

template <class Z, bool kVector, class T>
__device__ void store_prior(const Vec4<T>& grad, const PriorOutput& out, int64_t row, uint32_t block, int64_t dim) {
  if (out.sums) {
    store<kVector>(grad, static_cast<T*>(out.data) + row * dim, block, dim);
  } else {
    store<kVector>(grad, static_cast<Z*>(out.data) + row * dim, block, dim);
  }
}

// In float64, all registers that a thread can have: it would spill otherwise.
template <class Z>
constexpr int kPriorBlocksPerSm = std::is_same_v<Z, double> ? 1 : kFewBlocksPerSm;

template <class Z, bool kVector>
__global__ void __launch_bounds__(kThreads, kPriorBlocksPerSm<Z>)
    prior_backward_kernel(const BackwardWithPrior call, const Grid grid) {
  using T = Arithmetic<Z>;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const bool has_grad_kl = call.grad_kl != nullptr, has_grad_ratio = has_grad_kl && call.output == Output::kLogRatio;
  for (int64_t row_group = blockIdx.x; row_group < grid.row_groups; row_group += gridDim.x) {
    const int64_t row = grid.row(row_group, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    for (uint32_t block = grid.lane(threadIdx.x); block < blocks; block += grid.lanes()) {
      const auto x = load_inputs<Z, kVector>(call, call.scale, row, block);
      const auto prior = load_prior<Z, kVector>(call.prior, row, block, call.dim);
      RatioUpstream<T> from{};
      Vec4<T> grad_kl{};
      if (has_grad_ratio) {
        from = accumulate_ratio<Z, kVector>(call, x, prior, key, row, block);
      } else {
        const Upstream<T> of_z_and_kl = accumulate<Z, kVector>(call, call.output, x, key, row, block);
        from.z = of_z_and_kl.z;
        from.z_eps = of_z_and_kl.z_eps;
        grad_kl = of_z_and_kl.kl_or_ratio;
      }
      Vec4<T> grad_mu, grad_logvar, grad_prior_mu{}, grad_prior_logvar{};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T slope = x.slope.at[j];
        const Gaussian<T> gaussian(x.mu.at[j], x.logvar.at[j]);
        const T sigma = gaussian.sigma_gradient(from.z_eps.at[j], slope);
        const Gradient<T> of_z = gaussian.gradient_without_kl(from.z.at[j], sigma, T(0), slope);
        grad_mu.at[j] = of_z.mu;
        grad_logvar.at[j] = of_z.logvar;
        if (!has_grad_kl) continue;
        const Whitened<T> posterior(x.mu.at[j], x.logvar.at[j], prior.mu.at[j], prior.logvar.at[j]);
        const PriorGradient<T> grad =
            has_grad_ratio ? posterior.ratio_gradient(from.white.at[j], from.white_eps.at[j], from.ratio.at[j], slope)
                           : posterior.kl_gradient(grad_kl.at[j], slope);
        grad_mu.at[j] += grad.mu;
        grad_logvar.at[j] += grad.logvar;
        grad_prior_mu.at[j] = grad.prior_mu;
        grad_prior_logvar.at[j] = grad.prior_logvar;
      }
      store<kVector>(grad_mu, static_cast<Z*>(call.grad_mu) + row * call.grad_stride, block, call.dim);
      store<kVector>(grad_logvar, static_cast<Z*>(call.grad_logvar) + row * call.grad_stride, block, call.dim);
      store_prior<Z, kVector>(grad_prior_mu, call.grad_prior_mu, row, block, call.dim);
      store_prior<Z, kVector>(grad_prior_logvar, call.grad_prior_logvar, row, block, call.dim);
    }
  }
}

// Each thread sums four neighbours over a chunk of rows.
template <class Z, bool kVector>
__global__ void __launch_bounds__(kThreads, kFewBlocksPerSm) sum_rows_kernel(const SumRows call, const Grid grid) {
  using T = Arithmetic<Z>;
  for (int64_t row_group = blockIdx.x; row_group < grid.row_groups; row_group += gridDim.x) {
    const int64_t row = grid.row(row_group, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    const int64_t first = row * kRowsOfChunk;
    const int64_t last = first + kRowsOfChunk < call.terms ? first + kRowsOfChunk : call.terms;
    for (uint32_t block = grid.lane(threadIdx.x); block < blocks; block += grid.lanes()) {
      Vec4<T> sum{};
      for (int64_t term = first; term < last; ++term) {
        const auto from = load<kVector, T>(static_cast<const T*>(call.from) + term * call.dim, block, call.dim);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum.at[j] += from.at[j];
      }
      store<kVector>(sum, static_cast<Z*>(call.to) + row * call.dim, block, call.dim);
    }
  }
}

template <class Z>
bool vectors(const Prior& prior) {
  return aligned<Z>(prior.mu, prior.mu_stride) && aligned<Z>(prior.logvar, prior.logvar_stride);
}

template <class Z>
bool vectors(const PriorOutput& out, int64_t dim) {
  return out.sums ? aligned<Arithmetic<Z>>(out.data, dim) : aligned<Z>(out.data, dim);
}

}  // namespace

namespace cuda {

void run(const ForwardWithPrior& call, void* stream) {
  with_type(call.dtype, [&](auto number, const std::string& dtype) {
    using Z = decltype(number);
    const bool vector = vectors<Z>(static_cast<const Forward&>(call)) && vectors<Z>(call.prior);
    const auto kernel =
        vector ? forward_kernel<Z, true, false, ForwardWithPrior> : forward_kernel<Z, false, false, ForwardWithPrior>;
    launch("forward with a prior, " + dtype, kernel, call, stream, call.samples);
  });
}

void run(const BackwardWithPrior& call, void* stream) {
  with_type(call.dtype, [&](auto number, const std::string& dtype) {
    using Z = decltype(number);
    const bool vector = vectors<Z>(static_cast<const Backward&>(call)) && vectors<Z>(call.prior) &&
                        vectors<Z>(call.grad_prior_mu, call.dim) && vectors<Z>(call.grad_prior_logvar, call.dim);
    launch("backward with a prior, " + dtype, vector ? prior_backward_kernel<Z, true> : prior_backward_kernel<Z, false>, call,
           stream);
  });
}

void run(const SumRows& call, void* stream) {
  with_type(call.dtype, [&](auto number, const std::string& dtype) {
    using Z = decltype(number);
    const bool vector = call.dim % 4 == 0 && aligned<Arithmetic<Z>>(call.from, call.dim) && aligned<Z>(call.to, call.dim);
    launch("sum of rows, " + dtype, vector ? sum_rows_kernel<Z, true> : sum_rows_kernel<Z, false>, call, stream);
  });
}

}  // namespace cuda
}  // namespace vae
