// torch.ops.vae_ext.bernoulli_log_prob*: the log-likelihood of a decoder's logits.
#include "torch/tensors.h"

#include <tuple>

namespace vae {
namespace {

// Logits [K B, D] and bytes [B, D], kept alive while the kernels have pointers to them.
struct Pixels {
  Tensor logits, pixels;
  Bernoulli inputs;

  Pixels(const Tensor& logits_in, const Tensor& pixels_in) {
    STD_TORCH_CHECK(logits_in.dim() == 2 && pixels_in.dim() == 2 && logits_in.size(1) == pixels_in.size(1),
                    "pixels: expected [B, D] for logits [K B, D]");
    const int64_t rows = logits_in.size(0), images = pixels_in.size(0);
    STD_TORCH_CHECK(images == 0 ? rows == 0 : rows % images == 0, "logits: expected a multiple of as many rows as pixels");
    STD_TORCH_CHECK(pixels_in.scalar_type() == ScalarType::Byte, "pixels: expected uint8");
    check(pixels_in, logits_in, "pixels");
    logits = with_dense_rows(logits_in);
    pixels = with_dense_rows(pixels_in);
    inputs = {dtype_of(logits),
              rows,
              images,
              check_dim(logits.size(1), "logits"),
              logits.data_ptr(),
              logits.stride(0),
              static_cast<const uint8_t*>(pixels.data_ptr()),
              pixels.stride(0)};
  }
};

Tensor bernoulli_log_prob(const Tensor& logits, const Tensor& pixels) {
  const Pixels in(logits, pixels);
  const Tensor log_prob = empty({in.inputs.rows}, arithmetic_of(logits), logits);
  run(logits, LogProb{in.inputs, log_prob.data_ptr()}, in.inputs.dim);
  return log_prob;
}

Tensor bernoulli_log_prob_backward(const Tensor& grad_in, const Tensor& logits, const Tensor& pixels) {
  const Pixels in(logits, pixels);
  const auto grad = dense(grad_in, {in.inputs.rows}, arithmetic_of(logits), logits, "grad");
  const Tensor grad_logits = empty({in.inputs.rows, in.inputs.dim}, logits.scalar_type(), logits);
  run(logits, LogProbBackward{in.inputs, grad->data_ptr(), grad_logits.data_ptr()}, in.inputs.dim);
  return grad_logits;
}

std::tuple<Tensor, Tensor> bernoulli_log_prob_and_gradient(const Tensor& logits, const Tensor& pixels, double weight) {
  const Pixels in(logits, pixels);
  const Tensor log_prob = empty({in.inputs.rows}, arithmetic_of(logits), logits);
  const Tensor grad_logits = empty({in.inputs.rows, in.inputs.dim}, logits.scalar_type(), logits);
  run(logits, LogProbAndGradient{in.inputs, weight, log_prob.data_ptr(), grad_logits.data_ptr()}, in.inputs.dim);
  return {log_prob, grad_logits};
}

template <class Library>
void register_kernels(Library& m) {
  m.impl("bernoulli_log_prob", TORCH_BOX(&bernoulli_log_prob));
  m.impl("bernoulli_log_prob_backward", TORCH_BOX(&bernoulli_log_prob_backward));
  m.impl("bernoulli_log_prob_and_gradient", TORCH_BOX(&bernoulli_log_prob_and_gradient));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vae_ext, m) {
  m.def("bernoulli_log_prob(Tensor logits, Tensor pixels) -> Tensor");
  m.def("bernoulli_log_prob_backward(Tensor grad, Tensor logits, Tensor pixels) -> Tensor");
  m.def("bernoulli_log_prob_and_gradient(Tensor logits, Tensor pixels, *, float weight=1.0) -> (Tensor, Tensor)");
}

VAE_REGISTER(register_kernels)

}  // namespace vae
