// Runs the CPU kernels over awkward shapes, in heap blocks of exactly their size, without PyTorch except its header-only types:
// for sanitizers (`make sanitize`), and for emulated machines. Prints a checksum of every bit of every result, which is equal
// on every instruction set and machine. With an argument n: only every n-th case.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "kernels.h"

namespace {

size_t size_of(vae::Dtype dtype) {
  switch (dtype) {
    case vae::Dtype::kFloat32: return 4;
    case vae::Dtype::kFloat64: return 8;
    case vae::Dtype::kBFloat16:
    case vae::Dtype::kFloat16: return 2;
  }
  std::abort();
}

// n numbers from -3 to 3, of both signs and many exponents, in a separate heap block.
class Block {
 public:
  Block(int64_t n, vae::Dtype dtype, int seed) : bytes_(static_cast<size_t>(n) * size_of(dtype)) {
    data_ = std::malloc(bytes_ == 0 ? 1 : bytes_);
    for (int64_t i = 0; i < n; ++i) {
      const double value = static_cast<double>((i + seed) * 37 % 193) / 32 - 3;
      switch (dtype) {
        case vae::Dtype::kFloat32: static_cast<float*>(data_)[i] = static_cast<float>(value); break;
        case vae::Dtype::kFloat64: static_cast<double*>(data_)[i] = value; break;
        case vae::Dtype::kBFloat16: static_cast<torch::headeronly::BFloat16*>(data_)[i] = static_cast<float>(value); break;
        case vae::Dtype::kFloat16: static_cast<torch::headeronly::Half*>(data_)[i] = static_cast<float>(value); break;
      }
    }
  }
  // Bytes of every value.
  explicit Block(int64_t n) : bytes_(static_cast<size_t>(n)), data_(std::malloc(bytes_ == 0 ? 1 : bytes_)) {
    for (int64_t i = 0; i < n; ++i) static_cast<uint8_t*>(data_)[i] = static_cast<uint8_t>(i * 37);
  }
  ~Block() { std::free(data_); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  void* get() const { return data_; }

  // FNV-1a.
  uint64_t add_to(uint64_t checksum) const {
    for (size_t i = 0; i < bytes_; ++i) checksum = (checksum ^ static_cast<unsigned char*>(data_)[i]) * 0x100000001b3u;
    return checksum;
  }

 private:
  size_t bytes_;
  void* data_;
};

// The same inputs with a prior: its mean of each row, its logvar for all.
uint64_t run_prior(uint64_t checksum, const vae::Inputs& inputs, vae::Dtype arithmetic, int64_t gap) {
  const int64_t rows = inputs.rows, dim = inputs.dim, stride = dim + gap;
  const int64_t kl_size = inputs.output == vae::Output::kKl      ? rows * dim
                          : inputs.output == vae::Output::kKlSum ? rows
                                                                 : inputs.samples * rows;
  const int64_t chunks = (rows + vae::kRowsOfChunk - 1) / vae::kRowsOfChunk;
  const Block prior_mu(rows == 0 ? 0 : (rows - 1) * stride + dim, inputs.dtype, 6), prior_logvar(dim, inputs.dtype, 7);
  const Block z(inputs.samples * rows * dim, inputs.dtype, 8), kl(kl_size, arithmetic, 9);
  const Block grad_mu(rows * dim, inputs.dtype, 10), grad_logvar(rows * dim, inputs.dtype, 11);
  const Block grad_prior_mu(rows * dim, inputs.dtype, 12), sums(chunks * dim, arithmetic, 13), sum(dim, inputs.dtype, 14);
  const vae::Prior prior{prior_mu.get(), prior_logvar.get(), stride, 0};
  const int64_t half = std::min(rows, vae::kRowsOfChunk);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, half}, {half, rows}}) {
    const vae::Forward forward{inputs, z.get(), kl.get()};
    vae::cpu::run(vae::ForwardWithPrior{forward, prior}, begin, end);
    for (const bool of_z : {false, true}) {
      const vae::Backward call{inputs, of_z ? z.get() : nullptr, kl.get(), nullptr, grad_mu.get(), grad_logvar.get(), dim};
      vae::cpu::run(vae::BackwardWithPrior{call, prior, {grad_prior_mu.get(), false}, {sums.get(), true}}, begin, end);
    }
  }
  vae::cpu::run(vae::SumRows{inputs.dtype, 1, dim, chunks, sums.get(), sum.get()}, 0, 1);
  for (const Block* block : {&z, &kl, &grad_mu, &grad_logvar, &grad_prior_mu, &sum}) checksum = block->add_to(checksum);
  return checksum;
}

uint64_t run(uint64_t checksum, vae::Dtype dtype, vae::Scale scale, vae::Output output, int64_t samples, int64_t rows,
             int64_t dim, int64_t gap) {
  const auto arithmetic = dtype == vae::Dtype::kFloat64 ? dtype : vae::Dtype::kFloat32;
  const int64_t stride = dim + gap;
  const int64_t in_size = rows == 0 ? 0 : (rows - 1) * stride + dim;
  const int64_t kl_size = output == vae::Output::kKl ? rows * dim : output == vae::Output::kKlSum ? rows : samples * rows;
  const Block mu(in_size, dtype, 0), logvar(in_size, dtype, 1), z(samples * rows * dim, dtype, 2), kl(kl_size, arithmetic, 3);
  const Block grad_mu(in_size, dtype, 4), grad_logvar(in_size, dtype, 5);
  const std::vector<int64_t> key{-1, 4294967295};
  const vae::Inputs inputs{dtype,    scale,        output, samples, rows,       dim,
                           mu.get(), logvar.get(), stride, stride,  key.data(), 4294967290u};
  const int64_t half = rows / 2;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, half}, {half, rows}}) {
    vae::cpu::run(vae::Forward{inputs, z.get(), kl.get()}, begin, end);
    // With and without grad_z, and with z where the kernel may read it.
    const bool reads_z = dtype == arithmetic && scale == vae::Scale::kExp && output != vae::Output::kLogRatio;
    for (const auto& [of_z, read] : {std::pair<bool, bool>{true, reads_z}, {true, false}, {false, false}}) {
      const void* grad_z = of_z ? z.get() : nullptr;
      const void* given = read ? z.get() : nullptr;
      vae::cpu::run(vae::Backward{inputs, grad_z, kl.get(), given, grad_mu.get(), grad_logvar.get(), stride}, begin, end);
      checksum = grad_logvar.add_to(grad_mu.add_to(checksum));
    }
  }
  checksum = kl.add_to(z.add_to(checksum));
  return run_prior(checksum, inputs, arithmetic, gap);
}

// samples: rows of logits per image.
uint64_t run_bernoulli(uint64_t checksum, vae::Dtype dtype, int64_t samples, int64_t images, int64_t dim, int64_t gap) {
  const auto arithmetic = dtype == vae::Dtype::kFloat64 ? dtype : vae::Dtype::kFloat32;
  const auto strided = [&](int64_t rows) { return rows == 0 ? 0 : (rows - 1) * (dim + gap) + dim; };
  const int64_t rows = samples * images, stride = dim + gap;
  const Block logits(strided(rows), dtype, 0), grad_logits(rows * dim, dtype, 1), log_prob(rows, arithmetic, 2);
  const Block grad_too(rows * dim, dtype, 3), log_prob_too(rows, arithmetic, 4);
  const Block pixels(strided(images)), drawn(images * dim), taken(rows * dim), x(rows * dim, vae::Dtype::kFloat32, 5);
  const std::vector<int64_t> key{-1, 4294967295};
  const auto* bytes = static_cast<const uint8_t*>(pixels.get());
  const vae::Bernoulli inputs{dtype, rows, images, dim, logits.get(), stride, bytes, stride};
  const vae::TakePixels binarize{
      images, images, dim, bytes, stride, nullptr, key.data(), 4294967290u, static_cast<uint8_t*>(drawn.get()), nullptr};
  std::vector<int64_t> index;
  for (int64_t row = 0; row < rows; ++row) index.push_back(images - 1 - row * 5 % images);
  vae::TakePixels take{images,
                       rows,
                       dim,
                       bytes,
                       stride,
                       index.data(),
                       nullptr,
                       4294967290u,
                       static_cast<uint8_t*>(taken.get()),
                       static_cast<float*>(x.get())};
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, rows / 2}, {rows / 2, rows}}) {
    vae::cpu::run(vae::LogProb{inputs, log_prob.get()}, begin, end);
    vae::cpu::run(vae::LogProbBackward{inputs, log_prob.get(), grad_logits.get()}, begin, end);
    vae::cpu::run(vae::LogProbAndGradient{inputs, -1 / 3., log_prob_too.get(), grad_too.get()}, begin, end);
  }
  checksum = grad_too.add_to(log_prob_too.add_to(checksum));
  for (const auto* drawn_by : {static_cast<const int64_t*>(nullptr), key.data()}) {
    take.key = drawn_by;
    vae::cpu::run(take, 0, rows / 2);
    vae::cpu::run(take, rows / 2, rows);
    checksum = x.add_to(taken.add_to(checksum));
  }
  vae::cpu::run(binarize, 0, images / 2);
  vae::cpu::run(binarize, images / 2, images);
  return drawn.add_to(grad_logits.add_to(log_prob.add_to(checksum)));
}

}  // namespace

int main(int argc, char** argv) {
  const int every = argc > 1 ? std::atoi(argv[1]) : 1;
  uint64_t first = 0;
  for (const std::string& capability : vae::cpu::capabilities()) {
    if (!vae::cpu::set_capability(capability)) return 1;
    uint64_t checksum = 0xcbf29ce484222325u;
    int cases = 0, ran = 0;
    for (const auto dtype : {vae::Dtype::kFloat32, vae::Dtype::kFloat64, vae::Dtype::kBFloat16, vae::Dtype::kFloat16}) {
      for (const int64_t dim : {0, 1, 2, 3, 4, 5, 20, 63, 401, 1023, 1024, 1025, 2049}) {
        for (const int64_t rows : {0, 1, 7, 300}) {
          if (rows * dim > 200'000) continue;
          for (const int64_t samples : {1, 3}) {
            for (const auto scale : {vae::Scale::kExp, vae::Scale::kSoftplus}) {
              for (const auto output : {vae::Output::kKlSum, vae::Output::kKl, vae::Output::kLogRatio}) {
                if (cases++ % every != 0) continue;
                checksum = run(checksum, dtype, scale, output, samples, rows, dim, cases % 3);
                ++ran;
              }
            }
            if (cases++ % every != 0) continue;
            checksum = run_bernoulli(checksum, dtype, samples, rows, dim, cases % 3);
            ++ran;
          }
        }
      }
    }
    std::printf("%-8s %d cases, checksum %016llx\n", capability.c_str(), ran, static_cast<unsigned long long>(checksum));
    first = first == 0 ? checksum : first;
    if (checksum != first) return 1;
  }
}
