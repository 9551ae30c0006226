// The reparameterised sample, its KL or log-ratio, and their gradients, on the GPU.
#include "cuda/gaussian.cuh"

namespace vae {
namespace {

template <class Z, bool kVector, class T = Arithmetic<Z>>
__device__ void write_gradients(const Backward& call, bool has_grad_kl, const LoadedInputs<T>& x, const Upstream<T>& from,
                                int64_t row, uint32_t block) {
  Vec4<T> grad_mu, grad_logvar;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const Gaussian<T> gaussian(x.mu.at[j], x.logvar.at[j]);
    const T z = from.z.at[j], kl_or_ratio = from.kl_or_ratio.at[j], slope = x.slope.at[j];
    const T sigma = gaussian.sigma_gradient(from.z_eps.at[j], slope);
    const Gradient<T> grad = has_grad_kl ? gaussian.gradient(z, sigma, kl_or_ratio, slope)
                                         : gaussian.gradient_without_kl(z, sigma, kl_or_ratio, slope);
    grad_mu.at[j] = grad.mu;
    grad_logvar.at[j] = grad.logvar;
  }
  store<kVector>(grad_mu, static_cast<Z*>(call.grad_mu) + row * call.grad_stride, block, call.dim);
  store<kVector>(grad_logvar, static_cast<Z*>(call.grad_logvar) + row * call.grad_stride, block, call.dim);
}

template <class Z, bool kVector, bool kDefaultVariant>
__global__ void __launch_bounds__(kThreads, kBackwardBlocksPerSm<Z, kDefaultVariant>)
    backward_kernel(const Backward call, const Grid grid) {
  const Scale scale = kDefaultVariant ? Scale::kExp : call.scale;
  const Output output = kDefaultVariant ? Output::kKlSum : call.output;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const bool has_grad_kl = call.grad_kl != nullptr && output != Output::kLogRatio;
  for (int64_t row_group = blockIdx.x; row_group < grid.row_groups; row_group += gridDim.x) {
    const int64_t row = grid.row(row_group, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    for (uint32_t block = grid.lane(threadIdx.x); block < blocks; block += grid.lanes()) {
      const auto x = load_inputs<Z, kVector>(call, scale, row, block);
      const auto from = accumulate<Z, kVector>(call, output, x, key, row, block);
      write_gradients<Z, kVector>(call, has_grad_kl, x, from, row, block);
    }
  }
}

bool is_default(const Inputs& in) { return in.scale == Scale::kExp && in.output == Output::kKlSum; }

}  // namespace

namespace cuda {

void run(const Forward& call, void* stream) {
  with_type(call.dtype, [&](auto number, const std::string& dtype) {
    using Z = decltype(number);
    const Kernel<Forward> kernels[2][2] = {{forward_kernel<Z, false, false, Forward>, forward_kernel<Z, false, true, Forward>},
                                           {forward_kernel<Z, true, false, Forward>, forward_kernel<Z, true, true, Forward>}};
    launch("forward, " + dtype, kernels[vectors<Z>(call)][is_default(call)], call, stream, call.samples);
  });
}

void run(const Backward& call, void* stream) {
  with_type(call.dtype, [&](auto number, const std::string& dtype) {
    using Z = decltype(number);
    const Kernel<Backward> kernels[2][2] = {{backward_kernel<Z, false, false>, backward_kernel<Z, false, true>},
                                            {backward_kernel<Z, true, false>, backward_kernel<Z, true, true>}};
    launch("backward, " + dtype, kernels[vectors<Z>(call)][is_default(call)], call, stream);
  });
}

}  // namespace cuda
}  // namespace vae
