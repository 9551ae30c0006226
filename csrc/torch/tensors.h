// Tensor handling for all operators: checks, outputs, string arguments, and the call of a kernel on the tensor's device.
//
// Written against the LibTorch stable ABI, so that one build serves every PyTorch from 2.10 on.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels.h"

namespace vae {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Number of elements above which a second thread pays off. Measured on two cores, a backward pass, one thread against two: 4096
// elements take 21 against 23 us and 8192 take 32 against 25 if the second thread was busy 0.2 ms ago; 80 against 83 and 93
// against 92 if it was 2 ms ago.
constexpr int64_t kGrain = 8192;

inline Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::kFloat32;
    case ScalarType::Double: return Dtype::kFloat64;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Half: return Dtype::kFloat16;
    default: STD_TORCH_CHECK(false, "expected float32, float64, bfloat16 or float16");
  }
}

// The type of the arithmetic, and of kl.
inline ScalarType arithmetic_of(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Contiguous, on the device of `like`. Allocated by the C shim: a call through the dispatcher takes three times as long.
inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(sizes[i], 1);
  const bool cuda = like.is_cuda();
  const auto type = cuda ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu();
  const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle = nullptr;
  const auto failed = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), code, type,
                                               cuda ? like.get_device_index() : 0, &handle);
  STD_TORCH_CHECK(failed == 0, "the output could not be allocated");
  return Tensor(handle);
}

// The noise's counter has 32 bits each for row, sample and block of four dimensions (noise.h): beyond them it would wrap around
// to the noise of other elements.
constexpr int64_t kCounts = int64_t{1} << 32;

inline uint32_t check_row_offset(int64_t row_offset, int64_t rows) {
  STD_TORCH_CHECK(0 <= row_offset && row_offset < kCounts && rows <= kCounts - row_offset, "row_offset: expected 0 to 2**32 - ",
                  std::max<int64_t>(rows, 1), " for ", rows, " rows, got ", row_offset);
  return static_cast<uint32_t>(row_offset);
}

inline int64_t check_dim(int64_t dim, const char* name) {
  STD_TORCH_CHECK(dim <= 2 * kCounts, name, ": expected at most 2**33 elements a row, got ", dim);
  return dim;
}

inline void check(const Tensor& t, const Tensor& input, const char* name) {
  STD_TORCH_CHECK(t.device() == input.device(), name, ": expected the device of the input");
}

// The kernels support any stride between rows, but none within a row.
inline Tensor with_dense_rows(const Tensor& t) { return t.size(1) <= 1 || t.stride(1) == 1 ? t : torch::stable::contiguous(t); }

inline Tensor key_of(const Tensor& key, const Tensor& like) {
  STD_TORCH_CHECK(key.dim() == 1 && key.size(0) == 2 && key.scalar_type() == ScalarType::Long,
                  "key: expected int64 [2], seed and step");
  check(key, like, "key");
  return key.is_contiguous() ? key : torch::stable::contiguous(key);
}

// Makes a gradient readable by the kernels: that of a sum or a mean is expanded from one number.
inline std::optional<Tensor> dense(const std::optional<Tensor>& grad, const std::vector<int64_t>& shape, ScalarType dtype,
                                   const Tensor& mu, const char* name) {
  if (!grad.has_value()) return std::nullopt;
  bool same = grad->dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; same && i < shape.size(); ++i) same = grad->size(static_cast<int64_t>(i)) == shape[i];
  STD_TORCH_CHECK(same, name, ": expected the shape of its output");
  STD_TORCH_CHECK(grad->scalar_type() == dtype, name, ": expected the dtype of its output");
  check(*grad, mu, name);
  return grad->is_contiguous() ? *grad : torch::stable::contiguous(*grad);
}

// A string argument, which it frees. Not std::string: torch's conversion to that leaks memory at every call.
class StringArgument {
 public:
  StringArgument(StringHandle handle) : handle_(handle, &torch_delete_string) {}

  std::string value() const {
    const char* data = nullptr;
    size_t length = 0;
    STD_TORCH_CHECK(torch_string_c_str(handle_.get(), &data) == 0 && torch_string_length(handle_.get(), &length) == 0,
                    "a string argument could not be read");
    return {data, length};
  }

 private:
  std::unique_ptr<StringOpaque, decltype(&torch_delete_string)> handle_;
};

#if defined(VAE_EXT_WITH_CUDA)
inline void* current_stream(const Tensor& t) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream) == 0, "no current CUDA stream");
  return stream;
}
#endif

// work: elements per row. chunk_rows: number of rows that must not be divided among threads.
template <class Call>
void run(const Tensor& t, const Call& call, int64_t work, int64_t chunk_rows = 1) {
  if (call.rows == 0) return;
  if (t.is_cpu()) {
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work * chunk_rows));
    if (call.rows <= grain * chunk_rows) return cpu::run(call, 0, call.rows);
    const int64_t parts = (call.rows + chunk_rows - 1) / chunk_rows;
    return torch::stable::parallel_for(0, parts, grain, [&](int64_t begin, int64_t end) {
      cpu::run(call, begin * chunk_rows, std::min(end * chunk_rows, call.rows));
    });
  }
#if defined(VAE_EXT_WITH_CUDA)
  if (t.is_cuda()) {
    const torch::stable::accelerator::DeviceGuard guard(t.get_device_index());
    return cuda::run(call, current_stream(t));
  }
#endif
  STD_TORCH_CHECK(false, "no kernel for this device in this build of vae_ext");
}

// Registers an operator's kernels, the same for every device: register_kernels is a template of the library.
#if defined(VAE_EXT_WITH_CUDA)
#define VAE_REGISTER(register_kernels)                                \
  STABLE_TORCH_LIBRARY_IMPL(vae_ext, CPU, m) { register_kernels(m); } \
  STABLE_TORCH_LIBRARY_IMPL(vae_ext, CUDA, m) { register_kernels(m); }
#else
#define VAE_REGISTER(register_kernels) \
  STABLE_TORCH_LIBRARY_IMPL(vae_ext, CPU, m) { register_kernels(m); }
#endif

}  // namespace vae
