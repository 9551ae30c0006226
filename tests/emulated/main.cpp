// Compares the CUDA kernels, emulated on the CPU (see cuda_runtime.h), with the CPU kernels: the same bits, every element
// written, no access out of bounds. Prints each difference with its kernel and case, and exits with 1 if there are any.
//
//     main [EVERY [FIRST [DTYPES]]]    cases FIRST, FIRST + EVERY, ... of the first DTYPES types; by default all
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "buffer.h"
#include "cuda_runtime.h"
#include "kernels.h"

namespace {

struct Shape {
  int64_t rows, dim;
};
constexpr Shape kShapes[] = {{1, 1},    {7, 20},    {3, 33},  {130, 64}, {5, 1271}, {128, 20},
                             {1000, 3}, {1, 10000}, {300, 4}, {5, 0},    {3, 1024}, {2, 1028}};

// Memory layout of the rows of the arguments.
struct Layout {
  const char* name;
  int64_t gap;            // elements between the rows of inputs
  int64_t input_offset;   // elements from an aligned address to mu, logvar, logits, pixels
  int64_t output_offset;  // the same for results and their gradients
  bool packed;            // mu and logvar are the halves of one tensor, and so are their gradients
  bool expanded;          // all rows are the same memory
};
constexpr Layout kLayouts[] = {
    {"dense", 0, 0, 0, false, false},
    {"off by one", 0, 1, 1, false, false},
    {"off by four", 0, 4, 4, false, false},
    {"gaps of four", 4, 0, 0, false, false},
    {"gaps of three, off by two", 3, 2, 2, false, false},
    {"packed", 0, 0, 0, true, false},
    {"one row for all", 0, 0, 0, false, true},
    {"outputs off by one", 0, 0, 1, false, false},
    {"inputs off by one", 0, 1, 0, false, false},
};

constexpr const char* kDtypes[] = {"float32", "float64", "bfloat16", "float16"};  // in the order of Dtype
constexpr int64_t kSamples[] = {1, 2, 5};                                         // the operators reject 0
constexpr const char* kForms[] = {"kl",        "kl, softplus",        "kl an element", "kl an element, softplus",
                                  "log ratio", "log ratio, softplus", "pixels"};  // output, then scale

struct Key {
  std::vector<int64_t> seed_and_step;
  uint32_t row_offset;
};
const Key kKeys[] = {{{-1, 4294967295}, 4294967290u}, {{1234567890123456789, -7}, 0}, {{0, 0}, 12345}};

struct Case {
  Shape shape;
  Dtype dtype;
  Layout layout;
  bool special;  // values: infinite, NaN, huge, subnormal
  int64_t samples;
  int form;
  Key key;
  emulator::Order order;  // of the second run; the first runs forward, with as many thread blocks as requested
  unsigned max_blocks;
};

// Calls f(side, run) for each side; run(call, rows) calls the CPU's or the emulated kernel.
template <class F>
void on_each_side(const Case& c, F&& f) {
  f(Result::kCpu, [](const auto& call, int64_t rows) { vae::cpu::run(call, 0, rows); });
  emulator::order = emulator::Order::kForward;
  emulator::max_blocks = 0;
  f(Result::kCuda, [](const auto& call, int64_t) { vae::cuda::run(call, nullptr); });
  emulator::order = c.order;
  emulator::max_blocks = c.max_blocks;
  f(Result::kCudaAgain, [](const auto& call, int64_t) { vae::cuda::run(call, nullptr); });
}

// The same inputs with a prior: of each row, or one for all, whose gradients are summed.
void check_prior(const Case& c, const vae::Inputs& inputs, bool sums) {
  const auto [rows, dim] = c.shape;
  const Layout& l = c.layout;
  const size_t bytes = bytes_of(c.dtype);
  const Dtype arithmetic = arithmetic_of(c.dtype);
  const int64_t stride = sums ? 0 : dim + l.gap;
  const Buffer prior_mu((rows - 1) * stride + dim, bytes, l.input_offset), prior_logvar(dim, bytes, l.input_offset);
  prior_mu.fill_with_numbers(c.dtype, c.special, 2);
  prior_logvar.fill_with_numbers(c.dtype, c.special, 2);
  const vae::Prior prior{prior_mu.data(), prior_logvar.data(), stride, 0};

  const int64_t kl_size = inputs.output == vae::Output::kKl      ? rows * dim
                          : inputs.output == vae::Output::kKlSum ? rows
                                                                 : c.samples * rows;
  const Result z("forward with a prior", "z", c.samples * rows * dim, c.dtype, l.output_offset);
  const Result kl("forward with a prior", "kl", kl_size, arithmetic, l.output_offset);
  on_each_side(
      c, [&](Result::Side side, auto&& run) { run(vae::ForwardWithPrior{{inputs, z.on(side), kl.on(side)}, prior}, rows); });
  z.compare();
  kl.compare();

  const Buffer grad_z(c.samples * rows * dim, bytes, l.output_offset), grad_kl(kl_size, bytes_of(arithmetic), l.output_offset);
  grad_z.fill_with_numbers(c.dtype, c.special, 2);
  grad_kl.fill_with_numbers(arithmetic, c.special, 2);
  const char* kKernels[] = {"", "backward of z with a prior", "backward of kl with a prior", "backward of both with a prior"};
  for (int given = 1; given < 4; ++given) {
    const char* const name = kKernels[given];
    const Result grad_mu(name, "gradient of mu", rows * dim, c.dtype, l.output_offset);
    const Result grad_logvar(name, "gradient of logvar", rows * dim, c.dtype, l.output_offset);
    const Result grad_prior_mu(name, "gradient of the prior's mu", sums ? dim : rows * dim, c.dtype, l.output_offset);
    const Result grad_prior_logvar(name, "gradient of the prior's logvar", dim, c.dtype, l.output_offset);
    on_each_side(c, [&](Result::Side side, auto&& run) {
      const bool chunks = side == Result::kCpu;
      const Buffer mu_rows(rows * dim, bytes_of(arithmetic), 0), logvar_rows(rows * dim, bytes_of(arithmetic), 0);
      const vae::PriorOutput of_mu{sums ? mu_rows.data() : grad_prior_mu.on(side), sums}, of_logvar{logvar_rows.data(), true};
      const vae::Backward call{inputs,
                               given & 1 ? grad_z.data() : nullptr,
                               given & 2 ? grad_kl.data() : nullptr,
                               nullptr,
                               grad_mu.on(side),
                               grad_logvar.on(side),
                               dim};
      run(vae::BackwardWithPrior{call, prior, of_mu, of_logvar}, rows);
      const auto sum = [&](const Buffer& from, unsigned char* to) {
        const int64_t parts = (rows + vae::kRowsOfChunk - 1) / vae::kRowsOfChunk;
        const Buffer of_chunks(parts * dim, bytes_of(arithmetic), 0);
        if (!chunks) run(vae::SumRows{arithmetic, parts, dim, rows, from.data(), of_chunks.data()}, parts);
        run(vae::SumRows{c.dtype, 1, dim, parts, chunks ? from.data() : of_chunks.data(), to}, 1);
      };
      if (sums) sum(mu_rows, grad_prior_mu.on(side));
      sum(logvar_rows, grad_prior_logvar.on(side));
    });
    for (const Result* result : {&grad_mu, &grad_logvar, &grad_prior_mu, &grad_prior_logvar}) result->compare();
  }
}

void check_gaussian(const Case& c) {
  const auto [rows, dim] = c.shape;
  const Layout& l = c.layout;
  const size_t bytes = bytes_of(c.dtype);
  const auto output = static_cast<vae::Output>(c.form / 2);
  const int64_t stride = l.expanded ? 0 : l.packed ? 2 * dim : dim + l.gap;
  const int64_t n = l.packed ? rows * 2 * dim : l.expanded ? dim : (rows - 1) * stride + dim;
  const Buffer first(n, bytes, l.input_offset), second(l.packed ? 0 : n, bytes, l.input_offset);
  first.fill_with_numbers(c.dtype, c.special, 2);
  second.fill_with_numbers(c.dtype, c.special, 2);
  const vae::Inputs inputs{c.dtype,
                           static_cast<vae::Scale>(c.form % 2),
                           output,
                           c.samples,
                           rows,
                           dim,
                           first.data(),
                           l.packed ? first.at(dim) : second.data(),
                           stride,
                           stride,
                           c.key.seed_and_step.data(),
                           c.key.row_offset};

  const int64_t kl_size = output == vae::Output::kKl ? rows * dim : output == vae::Output::kKlSum ? rows : c.samples * rows;
  const Dtype arithmetic = arithmetic_of(c.dtype);
  const Result z("forward", "z", c.samples * rows * dim, c.dtype, l.output_offset);
  const Result kl("forward", "kl", kl_size, arithmetic, l.output_offset);
  on_each_side(c, [&](Result::Side side, auto&& run) { run(vae::Forward{inputs, z.on(side), kl.on(side)}, rows); });
  z.compare();
  kl.compare();

  const Buffer grad_z(c.samples * rows * dim, bytes, l.output_offset), grad_kl(kl_size, bytes_of(arithmetic), l.output_offset);
  grad_z.fill_with_numbers(c.dtype, c.special, 2);
  grad_kl.fill_with_numbers(arithmetic, c.special, 2);
  const char* kKernels[] = {"backward without gradients", "backward of z", "backward of kl", "backward of z and kl"};
  for (int given = 0; given < 4; ++given) {
    const void* of_z = given & 1 ? grad_z.data() : nullptr;
    const void* of_kl = given & 2 ? grad_kl.data() : nullptr;
    const Result grad_mu(kKernels[given], l.packed ? "gradients of mu and logvar" : "gradient of mu",
                         l.packed ? rows * 2 * dim : rows * dim, c.dtype, l.output_offset);
    const Result grad_logvar(kKernels[given], "gradient of logvar", l.packed ? 0 : rows * dim, c.dtype, l.output_offset);
    on_each_side(c, [&](Result::Side side, auto&& run) {
      unsigned char* const mu = grad_mu.on(side);
      unsigned char* const logvar = l.packed ? mu + static_cast<size_t>(dim) * bytes : grad_logvar.on(side);
      run(vae::Backward{inputs, of_z, of_kl, nullptr, mu, logvar, l.packed ? 2 * dim : dim}, rows);
    });
    grad_mu.compare();
    grad_logvar.compare();
  }
  if (!l.packed) check_prior(c, inputs, c.key.row_offset == 0);
}

void check_bernoulli(const Case& c) {
  const auto [images, dim] = c.shape;
  const Layout& l = c.layout;
  const int64_t rows = c.samples * images, stride = dim + l.gap, pixels_stride = l.expanded ? 0 : stride;
  const Dtype arithmetic = arithmetic_of(c.dtype);
  const Buffer logits((rows - 1) * stride + dim, bytes_of(c.dtype), l.input_offset);
  const Buffer pixels(l.expanded ? dim : (images - 1) * pixels_stride + dim, 1, l.input_offset);
  const Buffer grad(rows, bytes_of(arithmetic), l.output_offset);
  logits.fill_with_numbers(c.dtype, c.special, 5);
  pixels.fill_with_pixels();
  grad.fill_with_numbers(arithmetic, c.special, 2);
  const vae::Bernoulli inputs{c.dtype, rows, images, dim, logits.data(), stride, pixels.data(), pixels_stride};

  const Result log_prob("log_prob", "log_prob", rows, arithmetic, l.output_offset);
  const Result grad_logits("log_prob_backward", "gradient of logits", rows * dim, c.dtype, l.output_offset);
  const Result log_prob_too("log_prob_and_gradient", "log_prob", rows, arithmetic, l.output_offset);
  const Result grad_logits_too("log_prob_and_gradient", "gradient of logits", rows * dim, c.dtype, l.output_offset);
  on_each_side(c, [&](Result::Side side, auto&& run) {
    run(vae::LogProb{inputs, log_prob.on(side)}, rows);
    run(vae::LogProbBackward{inputs, grad.data(), grad_logits.on(side)}, rows);
    run(vae::LogProbAndGradient{inputs, -1 / 3., log_prob_too.on(side), grad_logits_too.on(side)}, rows);
  });
  for (const Result* result : {&log_prob, &grad_logits, &log_prob_too, &grad_logits_too}) result->compare();
}

void check_take_pixels(const Case& c, bool takes_rows, bool draws, bool wants_x) {
  const auto [images, dim] = c.shape;
  const Layout& l = c.layout;
  const int64_t stride = l.expanded ? 0 : dim + l.gap, rows = takes_rows ? 2 * images - 1 : images;
  const Buffer source(l.expanded ? dim : (images - 1) * stride + dim, 1, l.input_offset), index(rows, 8, l.input_offset);
  source.fill_with_pixels();
  auto* const chosen = reinterpret_cast<int64_t*>(index.data());
  for (int64_t i = 0; i < rows; ++i) chosen[i] = static_cast<int64_t>(random_bits() % static_cast<uint64_t>(images));
  const Result pixels = Result::of_bytes("take_pixels", "pixels", rows * dim, l.output_offset);
  const Result x("take_pixels", "x", wants_x ? rows * dim : 0, Dtype::kFloat32, l.output_offset);
  on_each_side(c, [&](Result::Side side, auto&& run) {
    run(vae::TakePixels{images, rows, dim, source.data(), stride, takes_rows ? chosen : nullptr,
                        draws ? c.key.seed_and_step.data() : nullptr, c.key.row_offset, pixels.on(side),
                        wants_x ? reinterpret_cast<float*>(x.on(side)) : nullptr},
        rows);
  });
  pixels.compare();
  x.compare();
}

void check(const Case& c) {
  if (c.form < 6) return check_gaussian(c);
  check_bernoulli(c);
  for (int i = 0; i < 8; ++i) check_take_pixels(c, i & 1, i & 2, i & 4);
}

// The case's number in mixed radix, with the lengths of all lists as bases; so a prime step covers all combinations of values.
Case case_of(int64_t number, size_t dtypes) {
  const auto digit = [&number](size_t base) {
    const auto d = static_cast<size_t>(number) % base;
    number /= static_cast<int64_t>(base);
    return d;
  };
  Case c{};
  const size_t dtype = digit(dtypes);
  c.form = static_cast<int>(digit(std::size(kForms)));
  c.layout = kLayouts[digit(std::size(kLayouts))];
  c.shape = kShapes[digit(std::size(kShapes))];
  c.samples = kSamples[digit(std::size(kSamples))];
  c.dtype = static_cast<Dtype>(dtype);
  c.special = random_bits() % 2 == 1;
  c.key = kKeys[random_bits() % std::size(kKeys)];
  c.order = random_bits() % 2 == 0 ? emulator::Order::kReverse : emulator::Order::kRandom;
  c.max_blocks = static_cast<unsigned>(random_bits() % 3);
  failures.test_case = std::string("(") + kDtypes[dtype] + " [" + std::to_string(c.samples) + ", " +
                       std::to_string(c.shape.rows) + ", " + std::to_string(c.shape.dim) + "], " + kForms[c.form] + ", " +
                       c.layout.name + (c.special ? ", special values)" : ")");
  return c;
}

}  // namespace

int main(int arguments, char** argument) {
  const auto number = [&](int i, int64_t otherwise) { return arguments > i ? std::atoll(argument[i]) : otherwise; };
  const int64_t every = number(1, 1), first = number(2, 0);
  const auto dtypes = static_cast<size_t>(number(3, std::size(kDtypes)));
  const auto total =
      static_cast<int64_t>(dtypes * std::size(kForms) * std::size(kLayouts) * std::size(kShapes) * std::size(kSamples));
  int64_t cases = 0;
  for (int64_t i = first; i < total; i += every) {
    random_bits.seed(static_cast<uint64_t>(i));
    const Case c = case_of(i, dtypes);
    if (c.form == 6 && c.layout.packed) continue;  // pixels have no halves
    check(c);
    ++cases;
  }
  std::printf("%lld cases, %zu kernels, %ld barriers, %ld differences\n", static_cast<long long>(cases),
              emulator::kernels_launched.size(), emulator::barriers_passed, failures.count);
  return failures.count == 0 ? 0 : 1;
}
