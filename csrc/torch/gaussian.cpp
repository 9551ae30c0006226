// torch.ops.vae_ext.reparam_kl*: the reparameterised sample and what comes beside it.
#include "torch/tensors.h"

#include <tuple>

namespace vae {
namespace {

// The value of an enumeration by its name; names: in its order.
template <class Enum>
Enum one_of(const char* argument, const std::string& name, const std::vector<const char*>& names) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<Enum>(found - names.begin());
  std::string expected;
  for (const char* each : names) expected += std::string(expected.empty() ? "" : ", ") + each;
  STD_TORCH_CHECK(false, argument, ": expected one of ", expected, "; got ", name);
}

// The options that the Gaussian operators have after their tensors.
struct Options {
  std::optional<int64_t> num_samples;
  int64_t row_offset;
  Scale scale;
  Output output;

  Options(std::optional<int64_t> num_samples, int64_t row_offset, const std::string& scale, const std::string& output)
      : num_samples(num_samples),
        row_offset(row_offset),
        scale(one_of<Scale>("scale", scale, {"exp", "softplus"})),
        output(one_of<Output>("output", output, {"kl_sum", "kl", "log_ratio"})) {
    STD_TORCH_CHECK(1 <= samples() && samples() <= kCounts, "num_samples: expected 1 to 2**32, got ", samples());
  }

  int64_t samples() const { return num_samples.value_or(1); }
};

// Two inputs [B, D], or the halves of one [B, 2 D]; held, because the kernels see only pointers.
struct Rows {
  Tensor mu, logvar, key;
  Inputs inputs;

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
    if (options.output == Output::kKl) return {rows(), dim()};
    if (options.output == Output::kLogRatio && options.num_samples.has_value()) return {samples(), rows()};
    return {rows()};
  }

 private:
  Rows(const Tensor& mu, const Tensor& logvar, const Tensor& key_in, const Options& options, int64_t dim, const void* mu_data,
       const void* logvar_data)
      : mu(mu), logvar(logvar), key(key_of(key_in, mu)) {
    const uint32_t row_offset = check_row_offset(options.row_offset, mu.size(0));
    // K is any number, and B too where rows are expanded from one. No size or offset exceeds this product, which must not wrap.
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

std::tuple<Tensor, Tensor> forward(const Rows& in, const Options& options) {
  const Tensor z = empty(in.z_shape(options), in.mu.scalar_type(), in.mu);
  const Tensor kl = empty(in.kl_shape(options), arithmetic_of(in.mu), in.mu);
  run(in.mu, Forward{in.inputs, z.data_ptr(), kl.data_ptr()}, in.samples() * in.dim());
  return {z, kl};
}

void backward(const Rows& in, const Options& options, const std::optional<Tensor>& grad_z_in,
              const std::optional<Tensor>& grad_kl_in, void* grad_mu, void* grad_logvar, int64_t grad_stride) {
  const auto grad_z = dense(grad_z_in, in.z_shape(options), in.mu.scalar_type(), in.mu, "grad_z");
  const auto grad_kl = dense(grad_kl_in, in.kl_shape(options), arithmetic_of(in.mu), in.mu, "grad_kl");
  const void* grad_z_data = grad_z.has_value() ? grad_z->data_ptr() : nullptr;
  const void* grad_kl_data = grad_kl.has_value() ? grad_kl->data_ptr() : nullptr;
  const Backward call{in.inputs, grad_z_data, grad_kl_data, grad_mu, grad_logvar, grad_stride};
  run(in.mu, call, in.samples() * in.dim());
}

std::tuple<Tensor, Tensor> reparam_kl(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                      std::optional<int64_t> num_samples, int64_t row_offset, StringHandle scale,
                                      StringHandle output) {
  const Options options(num_samples, row_offset, take_string(scale), take_string(output));
  return forward(Rows::pair(mu, logvar, key, options), options);
}

std::tuple<Tensor, Tensor> reparam_kl_backward(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                               const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                               std::optional<int64_t> num_samples, int64_t row_offset, StringHandle scale,
                                               StringHandle output) {
  const Options options(num_samples, row_offset, take_string(scale), take_string(output));
  const Rows in = Rows::pair(mu, logvar, key, options);
  const Tensor grad_mu = empty({in.rows(), in.dim()}, mu.scalar_type(), mu);
  const Tensor grad_logvar = empty({in.rows(), in.dim()}, mu.scalar_type(), mu);
  backward(in, options, grad_z, grad_kl, grad_mu.data_ptr(), grad_logvar.data_ptr(), in.dim());
  return {grad_mu, grad_logvar};
}

std::tuple<Tensor, Tensor> reparam_kl_packed(const Tensor& packed, const Tensor& key, std::optional<int64_t> num_samples,
                                             int64_t row_offset, StringHandle scale, StringHandle output) {
  const Options options(num_samples, row_offset, take_string(scale), take_string(output));
  return forward(Rows::packed(packed, key, options), options);
}

Tensor reparam_kl_packed_backward(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                  const Tensor& packed, const Tensor& key, std::optional<int64_t> num_samples,
                                  int64_t row_offset, StringHandle scale, StringHandle output) {
  const Options options(num_samples, row_offset, take_string(scale), take_string(output));
  const Rows in = Rows::packed(packed, key, options);
  const Tensor grad = empty({in.rows(), 2 * in.dim()}, packed.scalar_type(), packed);
  auto* first = static_cast<char*>(grad.data_ptr());
  backward(in, options, grad_z, grad_kl, first, first + in.dim() * static_cast<int64_t>(grad.element_size()), 2 * in.dim());
  return grad;
}

template <class Library>
void register_kernels(Library& m) {
  m.impl("reparam_kl", TORCH_BOX(&reparam_kl));
  m.impl("reparam_kl_backward", TORCH_BOX(&reparam_kl_backward));
  m.impl("reparam_kl_packed", TORCH_BOX(&reparam_kl_packed));
  m.impl("reparam_kl_packed_backward", TORCH_BOX(&reparam_kl_packed_backward));
}

}  // namespace

// kernels.h says what the scales and outputs are.
#define VAE_OPTIONS "*, int? num_samples=None, int row_offset=0, str scale=\"exp\", str output=\"kl_sum\""

STABLE_TORCH_LIBRARY_FRAGMENT(vae_ext, m) {
  m.def("reparam_kl(Tensor mu, Tensor logvar, Tensor key, " VAE_OPTIONS ") -> (Tensor, Tensor)");
  m.def("reparam_kl_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor logvar, Tensor key, " VAE_OPTIONS
        ") -> (Tensor, Tensor)");
  m.def("reparam_kl_packed(Tensor packed, Tensor key, " VAE_OPTIONS ") -> (Tensor, Tensor)");
  m.def("reparam_kl_packed_backward(Tensor? grad_z, Tensor? grad_kl, Tensor packed, Tensor key, " VAE_OPTIONS ") -> Tensor");
}

VAE_REGISTER(register_kernels)

}  // namespace vae
