// torch.ops.vae_ext.reparam_kl*: the reparameterised sample and its KL or log-ratio.
#include "torch/tensors.h"

#include <tuple>

namespace vae {
namespace {

// Returns an enumeration's value by name; names: in its order.
template <class Enum>
Enum one_of(const char* argument, const std::string& name, const std::vector<const char*>& names) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<Enum>(found - names.begin());
  std::string expected;
  for (const char* each : names) expected += std::string(expected.empty() ? "" : ", ") + each;
  STD_TORCH_CHECK(false, argument, ": expected one of ", expected, "; got ", name);
}

// The options of the Gaussian operators, after their tensors.
struct Options {
  std::optional<int64_t> num_samples;
  int64_t row_offset;
  Scale scale;
  Output output;

  Options(std::optional<int64_t> num_samples, int64_t row_offset, const StringArgument& scale, const StringArgument& output)
      : num_samples(num_samples),
        row_offset(row_offset),
        scale(one_of<Scale>("scale", scale.value(), {"exp", "softplus"})),
        output(one_of<Output>("output", output.value(), {"kl_sum", "kl", "log_ratio"})) {
    STD_TORCH_CHECK(1 <= samples() && samples() <= kCounts, "num_samples: expected 1 to 2**32, got ", samples());
  }

  int64_t samples() const { return num_samples.value_or(1); }
};

void* column(const Tensor& t, int64_t index) {
  return static_cast<char*>(t.data_ptr()) + index * static_cast<int64_t>(t.element_size());
}

// Two inputs [B, D], or the halves of one [B, 2 D], kept alive while the kernels have pointers to them.
struct Rows {
  Tensor mu, logvar, key;
  Inputs inputs;
  std::vector<int64_t> z_shape, kl_shape;

  static Rows pair(const Tensor& mu, const Tensor& logvar, const Tensor& key, const Options& options) {
    STD_TORCH_CHECK(mu.dim() == 2 && logvar.dim() == 2, "mu, logvar: expected [B, D]");
    STD_TORCH_CHECK(mu.size(0) == logvar.size(0) && mu.size(1) == logvar.size(1), "logvar: expected the shape of mu");
    STD_TORCH_CHECK(mu.scalar_type() == logvar.scalar_type(), "logvar: expected the dtype of mu");
    check(logvar, mu, "logvar");
    return Rows(with_dense_rows(mu), with_dense_rows(logvar), key, options, mu.size(1), 0);
  }

  static Rows packed(const Tensor& packed_in, const Tensor& key, const Options& options) {
    STD_TORCH_CHECK(packed_in.dim() == 2 && packed_in.size(1) % 2 == 0, "packed: expected [B, 2 D]");
    const Tensor packed = with_dense_rows(packed_in);
    const int64_t dim = packed.size(1) / 2;
    return Rows(packed, packed, key, options, dim, dim);
  }

 private:
  // logvar_at: the column of its tensor where logvar begins.
  Rows(const Tensor& mu, const Tensor& logvar, const Tensor& key_in, const Options& options, int64_t dim, int64_t logvar_at)
      : mu(mu), logvar(logvar), key(key_of(key_in, mu)) {
    const int64_t rows = mu.size(0), samples = options.samples();
    const uint32_t row_offset = check_row_offset(options.row_offset, rows);
    // K is any number, and B too if rows are expanded from one. No size or offset exceeds this product, which must not
    // overflow.
    int64_t elements = std::max<int64_t>(check_dim(dim, "mu"), 1);
    for (const int64_t count : {std::max<int64_t>(rows, 1), samples}) {
      STD_TORCH_CHECK(!__builtin_mul_overflow(elements, count, &elements), "num_samples: ", samples, " samples of [", rows,
                      ", ", dim, "] are more elements than 64 bits count");
    }
    inputs = {dtype_of(mu),
              options.scale,
              options.output,
              samples,
              rows,
              dim,
              mu.data_ptr(),
              column(logvar, logvar_at),
              mu.stride(0),
              logvar.stride(0),
              static_cast<const int64_t*>(key.data_ptr()),
              row_offset};
    z_shape = {rows, dim};
    kl_shape = options.output == Output::kKl ? z_shape : std::vector<int64_t>{rows};
    if (!options.num_samples.has_value()) return;
    z_shape.insert(z_shape.begin(), samples);
    if (options.output == Output::kLogRatio) kl_shape.insert(kl_shape.begin(), samples);
  }
};

// A Gaussian prior, kept alive in the same way.
struct PriorRows {
  Tensor mu, logvar;
  Prior prior;

  PriorRows(const Tensor& mu_in, const Tensor& logvar_in, const Rows& in)
      : mu(checked("prior_mu", mu_in, in)),
        logvar(checked("prior_logvar", logvar_in, in)),
        prior{mu.data_ptr(), logvar.data_ptr(), row_stride(mu), row_stride(logvar)} {}

 private:
  static Tensor checked(const char* name, const Tensor& t, const Rows& in) {
    const int64_t rows = in.inputs.rows, dim = in.inputs.dim;
    const bool fits = t.dim() == 1 ? t.size(0) == dim : t.dim() == 2 && t.size(0) == rows && t.size(1) == dim;
    STD_TORCH_CHECK(fits, name, ": expected [D] or the shape of mu");
    STD_TORCH_CHECK(t.scalar_type() == in.mu.scalar_type(), name, ": expected the dtype of mu");
    check(t, in.mu, name);
    return dim <= 1 || t.stride(t.dim() - 1) == 1 ? t : torch::stable::contiguous(t);
  }

  static int64_t row_stride(const Tensor& t) { return t.dim() == 1 ? 0 : t.stride(0); }
};

std::tuple<Tensor, Tensor> forward(const Rows& in, const Prior* prior = nullptr) {
  const Tensor z = empty(in.z_shape, in.mu.scalar_type(), in.mu);
  const Tensor kl = empty(in.kl_shape, arithmetic_of(in.mu), in.mu);
  const Forward call{in.inputs, z.data_ptr(), kl.data_ptr()};
  const int64_t work = in.inputs.samples * in.inputs.dim;
  prior == nullptr ? run(in.mu, call, work) : run(in.mu, ForwardWithPrior{call, *prior}, work);
  return {z, kl};
}

// The upstream gradients of both outputs, and z itself if it is to be read; each may be missing.
struct Upstream {
  const std::optional<Tensor>&grad_z, &grad_kl, &z;
};

struct PriorGradients {
  Prior prior;
  PriorOutput mu, logvar;
};

void backward(const Rows& in, const Upstream& from, void* grad_mu, void* grad_logvar, int64_t grad_stride,
              const PriorGradients* of_prior = nullptr) {
  const ScalarType dtype = in.mu.scalar_type(), arithmetic = arithmetic_of(in.mu);
  // On a GPU the noise is generated again, and in half precision z is too coarse.
  const bool reads_z =
      in.mu.is_cpu() && dtype == arithmetic && in.inputs.scale == Scale::kExp && in.inputs.output != Output::kLogRatio;
  const auto grad_z = dense(from.grad_z, in.z_shape, dtype, in.mu, "grad_z");
  const auto grad_kl = dense(from.grad_kl, in.kl_shape, arithmetic, in.mu, "grad_kl");
  const auto z = dense(from.z, in.z_shape, dtype, in.mu, "z");
  const auto data = [](const std::optional<Tensor>& t) { return t.has_value() ? t->data_ptr() : nullptr; };
  const Backward call{in.inputs, data(grad_z), data(grad_kl), reads_z ? data(z) : nullptr, grad_mu, grad_logvar, grad_stride};
  const int64_t work = in.inputs.samples * in.inputs.dim;
  if (of_prior == nullptr) return run(in.mu, call, work);
  const bool sums = of_prior->mu.sums || of_prior->logvar.sums;
  run(in.mu, BackwardWithPrior{call, of_prior->prior, of_prior->mu, of_prior->logvar}, work, sums ? kRowsOfChunk : 1);
}

// The gradient of a prior's mu or logvar: the kernel's output, or the sum of its rows.
class GradientOfPrior {
 public:
  GradientOfPrior(const Tensor& t, const Rows& in)
      : sums_(t.dim() == 1),
        dim_(in.inputs.dim),
        grad_(sums_ ? empty({dim_}, t.scalar_type(), t) : empty({in.inputs.rows, dim_}, t.scalar_type(), t)),
        rows_(!sums_ ? grad_ : empty({t.is_cpu() ? chunks(in.inputs.rows) : in.inputs.rows, dim_}, arithmetic_of(t), t)) {}

  PriorOutput output() const { return {rows_.data_ptr(), sums_}; }

  Tensor sum() const {
    for (Tensor from = rows_; sums_;) {
      const int64_t terms = from.size(0), rows = std::max<int64_t>(1, chunks(terms));
      const Tensor to = rows == 1 ? grad_ : empty({rows, dim_}, from.scalar_type(), from);
      run(to, SumRows{dtype_of(to), rows, dim_, terms, from.data_ptr(), to.data_ptr()}, kRowsOfChunk * dim_);
      if (rows == 1) break;
      from = to;
    }
    return grad_;
  }

 private:
  static int64_t chunks(int64_t rows) { return (rows + kRowsOfChunk - 1) / kRowsOfChunk; }

  bool sums_;
  int64_t dim_;
  Tensor grad_, rows_;
};

std::tuple<Tensor, Tensor> reparam_kl(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                      std::optional<int64_t> num_samples, int64_t row_offset, StringHandle scale,
                                      StringHandle output) {
  return forward(Rows::pair(mu, logvar, key, {num_samples, row_offset, scale, output}));
}

std::tuple<Tensor, Tensor> reparam_kl_backward(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                               const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                               const std::optional<Tensor>& z, std::optional<int64_t> num_samples,
                                               int64_t row_offset, StringHandle scale, StringHandle output) {
  const Rows in = Rows::pair(mu, logvar, key, {num_samples, row_offset, scale, output});
  const int64_t rows = in.inputs.rows, dim = in.inputs.dim;
  const Tensor grad_mu = empty({rows, dim}, mu.scalar_type(), mu), grad_logvar = empty({rows, dim}, mu.scalar_type(), mu);
  backward(in, {grad_z, grad_kl, z}, grad_mu.data_ptr(), grad_logvar.data_ptr(), dim);
  return {grad_mu, grad_logvar};
}

std::tuple<Tensor, Tensor> reparam_kl_packed(const Tensor& packed, const Tensor& key, std::optional<int64_t> num_samples,
                                             int64_t row_offset, StringHandle scale, StringHandle output) {
  return forward(Rows::packed(packed, key, {num_samples, row_offset, scale, output}));
}

Tensor reparam_kl_packed_backward(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                  const Tensor& packed, const Tensor& key, const std::optional<Tensor>& z,
                                  std::optional<int64_t> num_samples, int64_t row_offset, StringHandle scale,
                                  StringHandle output) {
  const Rows in = Rows::packed(packed, key, {num_samples, row_offset, scale, output});
  const int64_t rows = in.inputs.rows, dim = in.inputs.dim;
  const Tensor grad = empty({rows, 2 * dim}, packed.scalar_type(), packed);
  backward(in, {grad_z, grad_kl, z}, grad.data_ptr(), column(grad, dim), 2 * dim);
  return grad;
}

std::tuple<Tensor, Tensor> reparam_kl_prior(const Tensor& mu, const Tensor& logvar, const Tensor& prior_mu,
                                            const Tensor& prior_logvar, const Tensor& key, std::optional<int64_t> num_samples,
                                            int64_t row_offset, StringHandle scale, StringHandle output) {
  const Rows in = Rows::pair(mu, logvar, key, {num_samples, row_offset, scale, output});
  const PriorRows prior(prior_mu, prior_logvar, in);
  return forward(in, &prior.prior);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reparam_kl_prior_backward(
    const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl, const Tensor& mu, const Tensor& logvar,
    const Tensor& prior_mu, const Tensor& prior_logvar, const Tensor& key, const std::optional<Tensor>& z,
    std::optional<int64_t> num_samples, int64_t row_offset, StringHandle scale, StringHandle output) {
  const Rows in = Rows::pair(mu, logvar, key, {num_samples, row_offset, scale, output});
  const PriorRows prior(prior_mu, prior_logvar, in);
  const int64_t rows = in.inputs.rows, dim = in.inputs.dim;
  const Tensor grad_mu = empty({rows, dim}, mu.scalar_type(), mu), grad_logvar = empty({rows, dim}, mu.scalar_type(), mu);
  const GradientOfPrior grad_prior_mu(prior.mu, in), grad_prior_logvar(prior.logvar, in);
  const PriorGradients of_prior{prior.prior, grad_prior_mu.output(), grad_prior_logvar.output()};
  backward(in, {grad_z, grad_kl, z}, grad_mu.data_ptr(), grad_logvar.data_ptr(), dim, &of_prior);
  return {grad_mu, grad_logvar, grad_prior_mu.sum(), grad_prior_logvar.sum()};
}

template <class Library>
void register_kernels(Library& m) {
  m.impl("reparam_kl", TORCH_BOX(&reparam_kl));
  m.impl("reparam_kl_backward", TORCH_BOX(&reparam_kl_backward));
  m.impl("reparam_kl_prior", TORCH_BOX(&reparam_kl_prior));
  m.impl("reparam_kl_prior_backward", TORCH_BOX(&reparam_kl_prior_backward));
  m.impl("reparam_kl_packed", TORCH_BOX(&reparam_kl_packed));
  m.impl("reparam_kl_packed_backward", TORCH_BOX(&reparam_kl_packed_backward));
}

}  // namespace

// kernels.h describes the scales and outputs.
#define VAE_OPTIONS "*, int? num_samples=None, int row_offset=0, str scale=\"exp\", str output=\"kl_sum\""

STABLE_TORCH_LIBRARY_FRAGMENT(vae_ext, m) {
  m.def("reparam_kl(Tensor mu, Tensor logvar, Tensor key, " VAE_OPTIONS ") -> (Tensor, Tensor)");
  // z: from the forward pass. With it the backward pass may read the noise off z instead of generating it again.
  m.def(
      "reparam_kl_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor logvar, Tensor key, Tensor? z=None, " VAE_OPTIONS
      ") -> (Tensor, Tensor)");
  m.def("reparam_kl_prior(Tensor mu, Tensor logvar, Tensor prior_mu, Tensor prior_logvar, Tensor key, " VAE_OPTIONS
        ") -> (Tensor, Tensor)");
  m.def(
      "reparam_kl_prior_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor logvar, Tensor prior_mu, "
      "Tensor prior_logvar, Tensor key, Tensor? z=None, " VAE_OPTIONS ") -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("reparam_kl_packed(Tensor packed, Tensor key, " VAE_OPTIONS ") -> (Tensor, Tensor)");
  m.def("reparam_kl_packed_backward(Tensor? grad_z, Tensor? grad_kl, Tensor packed, Tensor key, Tensor? z=None, " VAE_OPTIONS
        ") -> Tensor");
}

VAE_REGISTER(register_kernels)

}  // namespace vae
