// A Bernoulli decoder's log-likelihood and its gradient, on the GPU.
#include "bernoulli.h"

#include "cuda/launch.cuh"

namespace vae {
namespace {

// LogProb, LogProbBackward or LogProbAndGradient.
template <class Z, bool kVector, class Call>
__global__ void __launch_bounds__(kThreads, kMinBlocksPerSm<Z>) bernoulli_kernel(const Call call, const Grid grid) {
  using T = Arithmetic<Z>;
  constexpr bool kValue = Call::kValue, kGrad = Call::kGrad;
  const int lane = grid.lane(threadIdx.x);
  for (int64_t row_group = blockIdx.x; row_group < grid.row_groups; row_group += gridDim.x) {
    const int64_t row = grid.row(row_group, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    const int64_t image = row % call.images;
    T partial = 0;
    for (uint32_t block = lane; block < blocks; block += grid.lanes()) {
      const auto logits = load<kVector, T>(static_cast<const Z*>(call.logits) + row * call.logits_stride, block, call.dim);
      const auto bytes = load<kVector, T>(call.pixels + image * call.pixels_stride, block, call.dim);
      T weight{};  // upstream gradient of log_prob
      if constexpr (kGrad && kValue) weight = static_cast<T>(call.weight);
      if constexpr (kGrad && !kValue) weight = static_cast<const T*>(call.grad)[row];
      Vec4<T> terms, grad;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const BernoulliPixel<T> pixel(bytes.at[j], logits.at[j]);
        // Past the row's end there is no pixel, and a logit of 0 would contribute ln 2.
        const bool inside = kVector || 4 * static_cast<int64_t>(block) + j < call.dim;
        if constexpr (kValue) terms.at[j] = inside ? pixel.log_prob() : T(0);
        if constexpr (kGrad) grad.at[j] = pixel.grad_logit(weight);
      }
      if constexpr (kGrad) store<kVector>(grad, static_cast<Z*>(call.grad_logits) + row * call.dim, block, call.dim);
      if constexpr (kValue) partial += sum_of(terms);
    }
    if constexpr (kValue) {
      const T sum = sum_by_halves(partial, lane, grid.lanes());
      if (lane == 0 && row < call.rows) static_cast<T*>(call.log_prob)[row] = sum;
    }
  }
}

// Whether the rows of a call can be accessed four elements at a time.
template <class Z, class Call>
bool vectors(const Call& c) {
  bool can = c.dim % 4 == 0 && aligned<Z>(c.logits, c.logits_stride) && aligned<uint8_t>(c.pixels, c.pixels_stride);
  if constexpr (Call::kGrad) can = can && aligned<Z>(c.grad_logits, c.dim);
  return can;
}

template <class Call>
void run_bernoulli(const std::string& name, const Call& call, void* stream) {
  with_type(call.dtype, [&](auto number, const std::string& dtype) {
    using Z = decltype(number);
    const auto kernel = vectors<Z>(call) ? bernoulli_kernel<Z, true, Call> : bernoulli_kernel<Z, false, Call>;
    launch(name + ", " + dtype, kernel, call, stream);
  });
}

}  // namespace

namespace cuda {

void run(const LogProb& call, void* stream) { run_bernoulli("log_prob", call, stream); }
void run(const LogProbBackward& call, void* stream) { run_bernoulli("log_prob_backward", call, stream); }
void run(const LogProbAndGradient& call, void* stream) { run_bernoulli("log_prob_and_gradient", call, stream); }

}  // namespace cuda
}  // namespace vae
