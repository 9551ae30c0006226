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

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "noise.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Beyond this many elements a second thread pays. Measured on two cores, a backward pass, one thread against two: 4096 elements
// take 21 against 23 us and 8192 take 32 against 25 if the second thread was busy 0.2 ms ago; 80 against 83 and 93 against 92
// if it was 2 ms ago.
constexpr int64_t kGrain = 8192;

vae::Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return vae::Dtype::kFloat32;
    case ScalarType::Double: return vae::Dtype::kFloat64;
    case ScalarType::BFloat16: return vae::Dtype::kBFloat16;
    case ScalarType::Half: return vae::Dtype::kFloat16;
    default: STD_TORCH_CHECK(false, "expected float32, float64, bfloat16 or float16");
  }
}

// The type of the arithmetic, and of kl.
ScalarType arithmetic_of(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Dense, on the device of `like`. Allocated by the C shim: a call through the dispatcher takes three times as long.
Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like) {
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

// The noise's counter has 32 bits for a row, a sample and a block of four dimensions (noise.h): beyond them it would wrap, and
// give noise that belongs to other elements.
constexpr int64_t kCounts = int64_t{1} << 32;

uint32_t check_row_offset(int64_t row_offset, int64_t rows) {
  STD_TORCH_CHECK(0 <= row_offset && row_offset < kCounts && rows <= kCounts - row_offset,
                  "row_offset: expected 0 to 2**32 - ", std::max<int64_t>(rows, 1), " for ", rows, " rows, got ", row_offset);
  return static_cast<uint32_t>(row_offset);
}

int64_t check_dim(int64_t dim, const char* name) {
  STD_TORCH_CHECK(dim <= 2 * kCounts, name, ": expected at most 2**33 elements a row, got ", dim);
  return dim;
}

// The options that the Gaussian operators have after their tensors.
struct Options {
  std::optional<int64_t> num_samples;
  int64_t row_offset;
  vae::Scale scale;
  vae::Output output;

  Options(std::optional<int64_t> num_samples, int64_t row_offset, int64_t scale, int64_t output)
      : num_samples(num_samples),
        row_offset(row_offset),
        scale(static_cast<vae::Scale>(scale)),
        output(static_cast<vae::Output>(output)) {
    STD_TORCH_CHECK(1 <= samples() && samples() <= kCounts, "num_samples: expected 1 to 2**32, got ", samples());
    STD_TORCH_CHECK(0 <= scale && scale <= 1, "scale: expected 0 or 1, got ", scale);
    STD_TORCH_CHECK(0 <= output && output <= 2, "output: expected 0, 1 or 2, got ", output);
  }

  int64_t samples() const { return num_samples.value_or(1); }
};

void check(const Tensor& t, const Tensor& input, const char* name) {
  STD_TORCH_CHECK(t.device() == input.device(), name, ": expected the device of the input");
}

// The kernels take any stride between rows and none within one.
Tensor with_dense_rows(const Tensor& t) {
  return t.size(1) <= 1 || t.stride(1) == 1 ? t : torch::stable::contiguous(t);
}

Tensor key_of(const Tensor& key, const Tensor& like) {
  STD_TORCH_CHECK(key.dim() == 1 && key.size(0) == 2 && key.scalar_type() == ScalarType::Long,
                  "key: expected int64 [2], seed and step");
  check(key, like, "key");
  return key.is_contiguous() ? key : torch::stable::contiguous(key);
}

// Two inputs [B, D], or the halves of one [B, 2 D]; held, because the kernels see only pointers.
struct Rows {
  Tensor mu, logvar, key;
  vae::Inputs inputs;

  static Rows pair(const Tensor& mu_in, const Tensor& logvar_in, const Tensor& key, const Options& options) {
    STD_TORCH_CHECK(mu_in.dim() == 2 && logvar_in.dim() == 2, "mu, logvar: expected [B, D]");
    STD_TORCH_CHECK(mu_in.size(0) == logvar_in.size(0) && mu_in.size(1) == logvar_in.size(1),
                    "logvar: expected the shape of mu");
    STD_TORCH_CHECK(mu_in.scalar_type() == logvar_in.scalar_type(), "logvar: expected the dtype of mu");
    check(logvar_in, mu_in, "logvar");
    const Tensor mu = with_dense_rows(mu_in);
    const Tensor logvar = with_dense_rows(logvar_in);
    return Rows(mu, logvar, key, options, mu.size(1), mu.data_ptr(), logvar.data_ptr());
  }

  static Rows packed(const Tensor& packed_in, const Tensor& key, const Options& options) {
    STD_TORCH_CHECK(packed_in.dim() == 2 && packed_in.size(1) % 2 == 0, "packed: expected [B, 2 D]");
    const Tensor packed = with_dense_rows(packed_in);
    const int64_t dim = packed.size(1) / 2;
    auto* first = static_cast<char*>(packed.data_ptr());
    return Rows(packed, packed, key, options, dim, first, first + dim * static_cast<int64_t>(packed.element_size()));
  }

  int64_t samples() const { return inputs.samples; }
  int64_t rows() const { return inputs.rows; }
  int64_t dim() const { return inputs.dim; }

  std::vector<int64_t> z_shape(const Options& options) const {
    if (options.num_samples.has_value()) return {samples(), rows(), dim()};
    return {rows(), dim()};
  }

  std::vector<int64_t> kl_shape(const Options& options) const {
    if (options.output == vae::Output::kKl) return {rows(), dim()};
    if (options.output == vae::Output::kLogRatio && options.num_samples.has_value()) return {samples(), rows()};
    return {rows()};
  }

 private:
  Rows(const Tensor& mu, const Tensor& logvar, const Tensor& key_in, const Options& options, int64_t dim,
       const void* mu_data, const void* logvar_data)
      : mu(mu), logvar(logvar), key(key_of(key_in, mu)) {
    const uint32_t row_offset = check_row_offset(options.row_offset, mu.size(0));
    // K is any number, and B where rows are expanded from one: no size or offset below exceeds this product, which must not wrap.
    int64_t elements = std::max<int64_t>(check_dim(dim, "mu"), 1);
    for (const int64_t count : {std::max<int64_t>(mu.size(0), 1), options.samples()}) {
      STD_TORCH_CHECK(!__builtin_mul_overflow(elements, count, &elements), "num_samples: ", options.samples(), " samples of [",
                      mu.size(0), ", ", dim, "] are more elements than 64 bits count");
    }
    inputs = {dtype_of(mu),
              options.scale,
              options.output,
              options.samples(),
              mu.size(0),
              dim,
              mu_data,
              logvar_data,
              mu.stride(0),
              logvar.stride(0),
              static_cast<const int64_t*>(key.data_ptr()),
              row_offset};
  }
};

#if defined(VAE_EXT_WITH_CUDA)
void* current_stream(const Tensor& t) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream) == 0, "no current CUDA stream");
  return stream;
}

#endif

// work: elements of a row.
template <class Call>
void run(const Tensor& t, const Call& call, int64_t work) {
  if (call.rows == 0) return;
  if (t.is_cpu()) {
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work));
    if (call.rows <= grain) return vae::cpu::run(call, 0, call.rows);
    return torch::stable::parallel_for(0, call.rows, grain,
                                       [&](int64_t begin, int64_t end) { vae::cpu::run(call, begin, end); });
  }
#if defined(VAE_EXT_WITH_CUDA)
  if (t.is_cuda()) {
    const torch::stable::accelerator::DeviceGuard guard(t.get_device_index());
    return vae::cuda::run(call, current_stream(t));
  }
#endif
  STD_TORCH_CHECK(false, "no kernel for this device in this build of vae_ext");
}

std::tuple<Tensor, Tensor> forward(const Rows& in, const Options& options) {
  const Tensor z = empty(in.z_shape(options), in.mu.scalar_type(), in.mu);
  const Tensor kl = empty(in.kl_shape(options), arithmetic_of(in.mu), in.mu);
  run(in.mu, vae::Forward{in.inputs, z.data_ptr(), kl.data_ptr()}, in.samples() * in.dim());
  return {z, kl};
}

// A gradient in the layout that the kernels read: a sum's or a mean's comes expanded from one number.
std::optional<Tensor> dense(const std::optional<Tensor>& grad, const std::vector<int64_t>& shape, ScalarType dtype,
                            const Tensor& mu, const char* name) {
  if (!grad.has_value()) return std::nullopt;
  bool same = grad->dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; same && i < shape.size(); ++i) same = grad->size(static_cast<int64_t>(i)) == shape[i];
  STD_TORCH_CHECK(same, name, ": expected the shape of its output");
  STD_TORCH_CHECK(grad->scalar_type() == dtype, name, ": expected the dtype of its output");
  check(*grad, mu, name);
  return grad->is_contiguous() ? *grad : torch::stable::contiguous(*grad);
}

void backward(const Rows& in, const Options& options, const std::optional<Tensor>& grad_z_in,
              const std::optional<Tensor>& grad_kl_in, void* grad_mu, void* grad_logvar, int64_t grad_stride) {
  const auto grad_z = dense(grad_z_in, in.z_shape(options), in.mu.scalar_type(), in.mu, "grad_z");
  const auto grad_kl = dense(grad_kl_in, in.kl_shape(options), arithmetic_of(in.mu), in.mu, "grad_kl");
  const vae::Backward call{in.inputs, grad_z.has_value() ? grad_z->data_ptr() : nullptr,
                           grad_kl.has_value() ? grad_kl->data_ptr() : nullptr, grad_mu, grad_logvar, grad_stride};
  run(in.mu, call, in.samples() * in.dim());
}

std::tuple<Tensor, Tensor> reparam_kl(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                      std::optional<int64_t> num_samples, int64_t row_offset, int64_t scale,
                                      int64_t output) {
  const Options options(num_samples, row_offset, scale, output);
  return forward(Rows::pair(mu, logvar, key, options), options);
}

std::tuple<Tensor, Tensor> reparam_kl_backward(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                               const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                               std::optional<int64_t> num_samples, int64_t row_offset, int64_t scale,
                                               int64_t output) {
  const Options options(num_samples, row_offset, scale, output);
  const Rows in = Rows::pair(mu, logvar, key, options);
  const Tensor grad_mu = empty({in.rows(), in.dim()}, mu.scalar_type(), mu);
  const Tensor grad_logvar = empty({in.rows(), in.dim()}, mu.scalar_type(), mu);
  backward(in, options, grad_z, grad_kl, grad_mu.data_ptr(), grad_logvar.data_ptr(), in.dim());
  return {grad_mu, grad_logvar};
}

std::tuple<Tensor, Tensor> reparam_kl_packed(const Tensor& packed, const Tensor& key, std::optional<int64_t> num_samples,
                                             int64_t row_offset, int64_t scale, int64_t output) {
  const Options options(num_samples, row_offset, scale, output);
  return forward(Rows::packed(packed, key, options), options);
}

Tensor reparam_kl_packed_backward(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                  const Tensor& packed, const Tensor& key, std::optional<int64_t> num_samples,
                                  int64_t row_offset, int64_t scale, int64_t output) {
  const Options options(num_samples, row_offset, scale, output);
  const Rows in = Rows::packed(packed, key, options);
  const Tensor grad = empty({in.rows(), 2 * in.dim()}, packed.scalar_type(), packed);
  auto* first = static_cast<char*>(grad.data_ptr());
  backward(in, options, grad_z, grad_kl, first, first + in.dim() * static_cast<int64_t>(grad.element_size()), 2 * in.dim());
  return grad;
}

// Logits [K B, D] of the bytes [B, D]; held, as in Rows.
struct Pixels {
  Tensor logits, pixels;
  vae::Bernoulli inputs;

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
  run(logits, vae::LogProb{in.inputs, log_prob.data_ptr()}, in.inputs.dim);
  return log_prob;
}

Tensor bernoulli_log_prob_backward(const Tensor& grad_in, const Tensor& logits, const Tensor& pixels) {
  const Pixels in(logits, pixels);
  const auto grad = dense(grad_in, {in.inputs.rows}, arithmetic_of(logits), logits, "grad");
  const Tensor grad_logits = empty({in.inputs.rows, in.inputs.dim}, logits.scalar_type(), logits);
  run(logits, vae::LogProbBackward{in.inputs, grad->data_ptr(), grad_logits.data_ptr()}, in.inputs.dim);
  return grad_logits;
}

std::tuple<Tensor, Tensor> bernoulli_log_prob_and_gradient(const Tensor& logits, const Tensor& pixels, double weight) {
  const Pixels in(logits, pixels);
  const Tensor log_prob = empty({in.inputs.rows}, arithmetic_of(logits), logits);
  const Tensor grad_logits = empty({in.inputs.rows, in.inputs.dim}, logits.scalar_type(), logits);
  run(logits, vae::LogProbAndGradient{in.inputs, weight, log_prob.data_ptr(), grad_logits.data_ptr()}, in.inputs.dim);
  return {log_prob, grad_logits};
}

// Images [N, D] without rows, key and x, which may be added; held, as in Rows.
struct Images {
  Tensor images, pixels;
  vae::TakePixels call;

  Images(const Tensor& images_in, int64_t rows, int64_t row_offset_in) : images(with_dense_rows(images_in)) {
    const int64_t dim = check_dim(images.size(1), "images");
    const uint32_t row_offset = check_row_offset(row_offset_in, rows);
    pixels = empty({rows, dim}, ScalarType::Byte, images);
    call = {images.size(0),
            rows,
            dim,
            static_cast<const uint8_t*>(images.data_ptr()),
            images.stride(0),
            nullptr,
            nullptr,
            row_offset,
            static_cast<uint8_t*>(pixels.data_ptr()),
            nullptr};
  }
};

Tensor binarize(const Tensor& pixels, const Tensor& key_in, int64_t row_offset) {
  STD_TORCH_CHECK(pixels.dim() == 2 && pixels.scalar_type() == ScalarType::Byte, "pixels: expected uint8 [B, D]");
  Images in(pixels, pixels.size(0), row_offset);
  const Tensor key = key_of(key_in, pixels);
  in.call.key = static_cast<const int64_t*>(key.data_ptr());
  run(pixels, in.call, in.call.dim);
  return in.pixels;
}

// On a GPU nothing is known of the indices before the kernel runs, and it asserts them. pybind11 makes this an IndexError.
void check_indices(const int64_t* index, int64_t rows, int64_t images) {
  for (int64_t i = 0; i < rows; ++i) {
    if (0 <= index[i] && index[i] < images) continue;
    throw std::out_of_range("rows: expected 0 <= row < " + std::to_string(images) + ", got " + std::to_string(index[i]));
  }
}

std::tuple<Tensor, Tensor> take_pixels(const Tensor& images, const Tensor& rows_in, const std::optional<Tensor>& key_in,
                                       int64_t row_offset) {
  STD_TORCH_CHECK(images.dim() == 2 && images.scalar_type() == ScalarType::Byte, "images: expected uint8 [N, D]");
  STD_TORCH_CHECK(rows_in.dim() == 1 && rows_in.scalar_type() == ScalarType::Long, "rows: expected int64 [B]");
  check(rows_in, images, "rows");
  const Tensor rows = rows_in.is_contiguous() ? rows_in : torch::stable::contiguous(rows_in);
  const auto key = key_in.has_value() ? std::optional(key_of(*key_in, images)) : std::nullopt;
  Images in(images, rows.size(0), row_offset);
  const Tensor x = empty({in.call.rows, in.call.dim}, ScalarType::Float, images);
  in.call.index = static_cast<const int64_t*>(rows.data_ptr());
  in.call.key = key.has_value() ? static_cast<const int64_t*>(key->data_ptr()) : nullptr;
  in.call.x = static_cast<float*>(x.data_ptr());
  if (images.is_cpu()) check_indices(in.call.index, in.call.rows, in.call.images);
  // A copy is an eighth of the work that kGrain was measured with, and less.
  run(images, in.call, key.has_value() ? in.call.dim : in.call.dim / 8);
  return {in.pixels, x};
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

// scale: 0, logvar; 1, rho of a softplus.  output: 0, KL a row; 1, KL an element; 2, log p(z) - log q(z|x).
#define VAE_OPTIONS "Tensor key, int? num_samples, int row_offset, int scale, int output"

STABLE_TORCH_LIBRARY(vae_ext, m) {
  m.def("reparam_kl(Tensor mu, Tensor logvar, " VAE_OPTIONS ") -> (Tensor, Tensor)");
  m.def("reparam_kl_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor logvar, " VAE_OPTIONS ") -> (Tensor, Tensor)");
  m.def("reparam_kl_packed(Tensor packed, " VAE_OPTIONS ") -> (Tensor, Tensor)");
  m.def("reparam_kl_packed_backward(Tensor? grad_z, Tensor? grad_kl, Tensor packed, " VAE_OPTIONS ") -> Tensor");
  m.def("bernoulli_log_prob(Tensor logits, Tensor pixels) -> Tensor");
  m.def("bernoulli_log_prob_backward(Tensor grad, Tensor logits, Tensor pixels) -> Tensor");
  m.def("bernoulli_log_prob_and_gradient(Tensor logits, Tensor pixels, float weight) -> (Tensor, Tensor)");
  m.def("binarize(Tensor pixels, Tensor key, int row_offset) -> Tensor");
  m.def("take_pixels(Tensor images, Tensor rows, Tensor? key, int row_offset) -> (Tensor, Tensor)");
}

template <class Library>
void register_kernels(Library& m) {
  m.impl("reparam_kl", TORCH_BOX(&reparam_kl));
  m.impl("reparam_kl_backward", TORCH_BOX(&reparam_kl_backward));
  m.impl("reparam_kl_packed", TORCH_BOX(&reparam_kl_packed));
  m.impl("reparam_kl_packed_backward", TORCH_BOX(&reparam_kl_packed_backward));
  m.impl("bernoulli_log_prob", TORCH_BOX(&bernoulli_log_prob));
  m.impl("bernoulli_log_prob_backward", TORCH_BOX(&bernoulli_log_prob_backward));
  m.impl("bernoulli_log_prob_and_gradient", TORCH_BOX(&bernoulli_log_prob_and_gradient));
  m.impl("binarize", TORCH_BOX(&binarize));
  m.impl("take_pixels", TORCH_BOX(&take_pixels));
}

STABLE_TORCH_LIBRARY_IMPL(vae_ext, CPU, m) { register_kernels(m); }

#if defined(VAE_EXT_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(vae_ext, CUDA, m) { register_kernels(m); }
#endif

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled half of vae_ext. The operators are under torch.ops.vae_ext.";
  m.def("build_info", &build_info, "Digest of the sources, compiler, and CUDA version or None.");
  m.def("cpu_capabilities", &vae::cpu::capabilities, "The instruction sets that this machine runs, best last.");
  m.def("cpu_capability", &vae::cpu::capability, "The instruction set in use.");
  m.def("set_cpu_capability", &vae::cpu::set_capability, "Use this one from now on; false if it can't be had.");
  m.def("philox", &philox, "Philox4x32-10 of a counter of four words and a key of two.");
}
