// The tensor code: operator schemas, their registration, and the plain functions of the Python module.
//
// Written against the LibTorch stable ABI, so that one build serves every PyTorch from 2.10 on.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

// Where pybind11 comes with torch (2.10 to 2.12), it refuses to be included beside the stable ABI. It is not part of it, and
// is used for nothing that holds a tensor.
#pragma push_macro("TORCH_TARGET_VERSION")
#undef TORCH_TARGET_VERSION
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#pragma pop_macro("TORCH_TARGET_VERSION")

#include <array>
#include <optional>
#include <tuple>

#include "kernels.h"
#include "noise.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Rows a thread must have before a second one pays, in elements.
constexpr int64_t kGrain = 16384;

vae::Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return vae::Dtype::kFloat32;
    case ScalarType::Double: return vae::Dtype::kFloat64;
    case ScalarType::BFloat16: return vae::Dtype::kBFloat16;
    case ScalarType::Half: return vae::Dtype::kFloat16;
    default: STD_TORCH_CHECK(false, "mu: expected float32, float64, bfloat16 or float16");
  }
}

// The type of the arithmetic, and of kl.
ScalarType arithmetic_of(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_inputs(const Tensor& mu, const Tensor& logvar, const Tensor& key) {
  STD_TORCH_CHECK(mu.dim() == 2 && logvar.dim() == 2, "mu, logvar: expected [B, D]");
  STD_TORCH_CHECK(mu.size(0) == logvar.size(0) && mu.size(1) == logvar.size(1), "logvar: expected the shape of mu");
  STD_TORCH_CHECK(mu.scalar_type() == logvar.scalar_type(), "logvar: expected the dtype of mu");
  STD_TORCH_CHECK(key.dim() == 1 && key.size(0) == 2 && key.scalar_type() == ScalarType::Long,
                  "key: expected int64 [2], seed and step");
  for (const Tensor& t : {logvar, key}) {
    STD_TORCH_CHECK(t.device() == mu.device(), "logvar, key: expected the device of mu");
  }
}

// The kernels take any stride between rows and none within one.
Tensor with_dense_rows(const Tensor& t) {
  return t.size(1) <= 1 || t.stride(1) == 1 ? t : torch::stable::contiguous(t);
}

template <class Call, class OnCpu, class OnCuda>
void run(const Tensor& mu, const Call& call, OnCpu on_cpu, [[maybe_unused]] OnCuda on_cuda) {
  if (call.rows == 0) return;
  if (mu.is_cpu()) {
    const int64_t elements_a_row = std::max<int64_t>(1, call.samples * call.dim);
    torch::stable::parallel_for(0, call.rows, std::max<int64_t>(1, kGrain / elements_a_row),
                                [&](int64_t begin, int64_t end) { on_cpu(call, begin, end); });
    return;
  }
#if defined(VAE_EXT_WITH_CUDA)
  if (mu.is_cuda()) {
    const torch::stable::accelerator::DeviceGuard guard(mu.get_device_index());
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(mu.get_device_index(), &stream) == 0, "no current CUDA stream");
    on_cuda(call, stream);
    return;
  }
#endif
  STD_TORCH_CHECK(false, "mu: no kernel for its device in this build of vae_ext");
}

#if defined(VAE_EXT_WITH_CUDA)
constexpr auto cuda_forward = vae::cuda::forward;
constexpr auto cuda_backward = vae::cuda::backward;
#else
constexpr std::nullptr_t cuda_forward = nullptr;
constexpr std::nullptr_t cuda_backward = nullptr;
#endif

std::tuple<Tensor, Tensor> reparam_kl(const Tensor& mu_in, const Tensor& logvar_in, const Tensor& key_in,
                                      std::optional<int64_t> num_samples, int64_t row_offset, bool sum_kl) {
  check_inputs(mu_in, logvar_in, key_in);
  const Tensor mu = with_dense_rows(mu_in);
  const Tensor logvar = with_dense_rows(logvar_in);
  const Tensor key = torch::stable::contiguous(key_in);
  const int64_t samples = num_samples.value_or(1), rows = mu.size(0), dim = mu.size(1);
  STD_TORCH_CHECK(samples >= 0, "num_samples: expected at least 0");

  std::vector<int64_t> z_shape{rows, dim};
  if (num_samples.has_value()) z_shape.insert(z_shape.begin(), samples);
  std::vector<int64_t> kl_shape{rows};
  if (!sum_kl) kl_shape.push_back(dim);
  const Tensor z = torch::stable::new_empty(mu, z_shape);
  const Tensor kl = torch::stable::new_empty(mu, kl_shape, arithmetic_of(mu));

  const vae::Forward call{dtype_of(mu),
                          samples,
                          rows,
                          dim,
                          mu.data_ptr(),
                          logvar.data_ptr(),
                          mu.stride(0),
                          logvar.stride(0),
                          static_cast<const int64_t*>(key.data_ptr()),
                          static_cast<uint32_t>(row_offset),
                          sum_kl,
                          z.data_ptr(),
                          kl.data_ptr()};
  run(mu, call, vae::cpu::forward, cuda_forward);
  return {z, kl};
}

std::tuple<Tensor, Tensor> reparam_kl_backward(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                               const Tensor& mu_in, const Tensor& logvar_in, const Tensor& key_in,
                                               std::optional<int64_t> num_samples, int64_t row_offset, bool sum_kl) {
  check_inputs(mu_in, logvar_in, key_in);
  const Tensor mu = with_dense_rows(mu_in);
  const Tensor logvar = with_dense_rows(logvar_in);
  const Tensor key = torch::stable::contiguous(key_in);
  const int64_t samples = num_samples.value_or(1), rows = mu.size(0), dim = mu.size(1);

  // A sum's or a mean's gradient comes expanded from one number.
  std::optional<Tensor> dense_grad_z, dense_grad_kl;
  if (grad_z.has_value()) {
    STD_TORCH_CHECK(grad_z->numel() == samples * rows * dim, "grad_z: expected the shape of z");
    STD_TORCH_CHECK(grad_z->scalar_type() == mu.scalar_type(), "grad_z: expected the dtype of z");
    STD_TORCH_CHECK(grad_z->device() == mu.device(), "grad_z: expected the device of mu");
    dense_grad_z = torch::stable::contiguous(*grad_z);
  }
  if (grad_kl.has_value()) {
    STD_TORCH_CHECK(grad_kl->numel() == (sum_kl ? rows : rows * dim), "grad_kl: expected the shape of kl");
    STD_TORCH_CHECK(grad_kl->scalar_type() == arithmetic_of(mu), "grad_kl: expected the dtype of kl");
    STD_TORCH_CHECK(grad_kl->device() == mu.device(), "grad_kl: expected the device of mu");
    dense_grad_kl = torch::stable::contiguous(*grad_kl);
  }
  const Tensor grad_mu = torch::stable::new_empty(mu, {rows, dim});
  const Tensor grad_logvar = torch::stable::new_empty(mu, {rows, dim});

  const vae::Backward call{dtype_of(mu),
                           samples,
                           rows,
                           dim,
                           mu.data_ptr(),
                           logvar.data_ptr(),
                           mu.stride(0),
                           logvar.stride(0),
                           static_cast<const int64_t*>(key.data_ptr()),
                           static_cast<uint32_t>(row_offset),
                           sum_kl,
                           dense_grad_z.has_value() ? dense_grad_z->data_ptr() : nullptr,
                           dense_grad_kl.has_value() ? dense_grad_kl->data_ptr() : nullptr,
                           grad_mu.data_ptr(),
                           grad_logvar.data_ptr()};
  run(mu, call, vae::cpu::backward, cuda_backward);
  return {grad_mu, grad_logvar};
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const vae::Words w = vae::philox({counter[0], counter[1], counter[2], counter[3]}, key[0], key[1]);
  return {w.x0, w.x1, w.x2, w.x3};
}

// Found in the file's bytes before it is loaded (vae_ext/source.py), so it stands there whole.
__attribute__((used)) const char kDigest[] = "vae_ext source digest " VAE_EXT_DIGEST;

pybind11::dict build_info() {
  pybind11::dict info;
  info["digest"] = VAE_EXT_DIGEST;
  info["compiler"] = __VERSION__;
#if defined(VAE_EXT_WITH_CUDA)
  info["cuda"] = VAE_EXT_WITH_CUDA;
#else
  info["cuda"] = pybind11::none();
#endif
  return info;
}

}  // namespace

STABLE_TORCH_LIBRARY(vae_ext, m) {
  m.def("reparam_kl(Tensor mu, Tensor logvar, Tensor key, int? num_samples, int row_offset, bool sum_kl) -> (Tensor, Tensor)");
  m.def(
      "reparam_kl_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor logvar, Tensor key, int? num_samples, "
      "int row_offset, bool sum_kl) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(vae_ext, CPU, m) {
  m.impl("reparam_kl", TORCH_BOX(&reparam_kl));
  m.impl("reparam_kl_backward", TORCH_BOX(&reparam_kl_backward));
}

#if defined(VAE_EXT_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(vae_ext, CUDA, m) {
  m.impl("reparam_kl", TORCH_BOX(&reparam_kl));
  m.impl("reparam_kl_backward", TORCH_BOX(&reparam_kl_backward));
}
#endif

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled half of vae_ext. The operators are under torch.ops.vae_ext.";
  m.def("build_info", &build_info, "Digest of the sources, compiler, and CUDA version or None.");
  m.def("cpu_capabilities", &vae::cpu::capabilities, "The instruction sets that this machine runs, best last.");
  m.def("cpu_capability", &vae::cpu::capability, "The instruction set in use.");
  m.def("set_cpu_capability", &vae::cpu::set_capability, "Use this one from now on; false if it can't be had.");
  m.def("philox", &philox, "Philox4x32-10 of a counter of four words and a key of two.");
}
