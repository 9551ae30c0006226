// The loops on the CPU; tile.h says how they walk. One copy of each for every instruction set, chosen at run time.
#include <algorithm>
#include <cstring>

#include "bernoulli.h"
#include "gaussian.h"
#include "kernels.h"
#include "lanes.h"
#include "tile.h"

namespace vae {
namespace {

// The four words of each of the tile's blocks.
template <class Isa>
VAE_FN void fill_words(PhiloxArrays& a, const Tile& t, NoiseKey key, uint32_t sample, uint32_t row_offset) {
  static_assert(PhiloxArrays::kLength == kPartials, "a tile's blocks");
  const int blocks = t.rows * t.blocks;
  for (int i = 0; i < t.rows; ++i) {
    for (int j = 0; j < t.blocks; ++j) {
      a.row[i * t.blocks + j] = row_offset + static_cast<uint32_t>(t.row + i);
      a.block[i * t.blocks + j] = static_cast<uint32_t>(t.block + j);
    }
  }
  for (int i = blocks; i % 8 != 0; ++i) a.row[i] = a.block[i] = 0;
  Isa::philox(a, blocks, key, sample);
}

template <class Isa>
VAE_FN void fill_noise(float* eps, const Tile& t, NoiseKey key, uint32_t sample, uint32_t row_offset) {
  PhiloxArrays a;
  fill_words<Isa>(a, t, key, sample, row_offset);
  for (int i = 0; i < t.rows * t.blocks; ++i) {
    const Pair low = box_muller(a.x0[i], a.x1[i]);
    const Pair high = box_muller(a.x2[i], a.x3[i]);
    eps[4 * i] = low.even;
    eps[4 * i + 1] = low.odd;
    eps[4 * i + 2] = high.even;
    eps[4 * i + 3] = high.odd;
  }
}

// The tile of sample k: in [K, B, D] its rows follow those of the samples before it.
VAE_FN Tile of_sample(Tile t, int64_t k, int64_t rows) {
  t.row += k * rows;
  return t;
}

// logvar, to read. slope: dlogvar/drho, with kSoftplus.
template <class T>
VAE_FN const T* read_logvar(T* copy, T* slope, const Tile& t, const Inputs& in) {
  if (in.scale == Scale::kExp) return read(copy, t, in.dtype, in.logvar, in.logvar_stride);
  load(copy, t, in.dtype, in.logvar, in.logvar_stride);
  for (int i = 0; i < t.size(); ++i) {
    const Softplus<T> scale = softplus(copy[i]);
    copy[i] = scale.logvar;
    slope[i] = scale.slope;
  }
  clear_padding(copy, t);
  return copy;
}

// Samples first .. last - 1 of some rows.
template <class Isa, class T>
VAE_FN void forward_samples(const Forward& call, int64_t begin, int64_t end, int64_t first, int64_t last) {
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  auto* sums = static_cast<T*>(call.kl);

  T mu_copy[kTile], logvar_copy[kTile], z_copy[kTile], slope[kTile], sigma[kTile], kl[kTile], partial[kPartials];
  float eps[kTile];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    const T* mu = read(mu_copy, t, call.dtype, call.mu, call.mu_stride);
    const T* logvar = read_logvar(logvar_copy, slope, t, call);
    for (int i = 0; i < t.size(); ++i) {
      const Gaussian<T> gaussian(mu[i], logvar[i]);
      sigma[i] = gaussian.sigma();
      kl[i] = gaussian.kl();
    }
    if (call.output == Output::kKl) store(kl, t, kDtypeOf<T>, call.kl, call.dim);
    if (call.output == Output::kKlSum) sum_rows(sums, partial, kl, t, call.dim);
    for (int64_t k = first; k < last; ++k) {
      const Tile sample = of_sample(t, k, call.rows);
      T* z = write(z_copy, sample, call.dtype, call.z, call.dim);
      fill_noise<Isa>(eps, t, key, static_cast<uint32_t>(k), call.row_offset);
      for (int i = 0; i < t.size(); ++i) z[i] = mu[i] + sigma[i] * static_cast<T>(eps[i]);
      if (call.output == Output::kLogRatio) {
        for (int i = 0; i < t.size(); ++i) kl[i] = log_ratio(logvar[i], z[i], static_cast<T>(eps[i]));
        sum_rows(sums + k * call.rows, partial, kl, t, call.dim);
      }
      written(z, z_copy, sample, call.dtype, call.z, call.dim);
    }
  });
}

template <class Isa, class T>
VAE_FN void rows_of(const Forward& call, int64_t begin, int64_t end) {
  if (call.dim == 0) {
    const int64_t sums = call.output == Output::kKl ? 0 : call.output == Output::kKlSum ? 1 : call.samples;
    for (int64_t k = 0; k < sums; ++k) std::fill_n(static_cast<T*>(call.kl) + k * call.rows + begin, end - begin, T(0));
    return;
  }
  // A sum over several tiles is kept for one sample at a time.
  const bool apart = call.output == Output::kLogRatio && call.dim > kTile;
  int64_t k = 0;
  do {
    const int64_t next = apart ? std::min(k + 1, call.samples) : call.samples;
    forward_samples<Isa, T>(call, begin, end, k, next);
    k = next;
  } while (k < call.samples);
}

template <class Isa, class T>
VAE_FN void rows_of(const Backward& call, int64_t begin, int64_t end) {
  if (call.dim == 0) return;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const bool has_grad_kl = call.grad_kl != nullptr && call.output != Output::kLogRatio;
  const bool has_grad_ratio = call.grad_kl != nullptr && call.output == Output::kLogRatio;
  const int64_t samples = call.grad_z != nullptr || has_grad_ratio ? call.samples : 0;
  const auto* grad_sums = static_cast<const T*>(call.grad_kl);

  T mu_copy[kTile], logvar_copy[kTile], grad_z_copy[kTile], grad_kl_copy[kTile], grad_mu_copy[kTile], grad_logvar_copy[kTile];
  T slope[kTile], scaled[kTile], rest[kTile], weight[kTile], z_sum[kTile], z_eps_sum[kTile];
  float eps[kTile];
  // dlogvar/drho is multiplied in before the exponential, which may overflow where the product does not. With kExp it stays 1: a
  // branch, or a second array, costs more.
  std::fill_n(slope, kTile, T(1));
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    const T* mu = read(mu_copy, t, call.dtype, call.mu, call.mu_stride);
    const T* logvar = read_logvar(logvar_copy, slope, t, call);
    // The gradient that comes for kl, an element each; of the log-ratio, what it has without z: d / dlogvar = 1 / 2.
    const T* grad_kl = grad_kl_copy;
    if (has_grad_kl && call.output == Output::kKl) {
      grad_kl = read(grad_kl_copy, t, kDtypeOf<T>, call.grad_kl, call.dim);
    } else if (has_grad_kl) {
      broadcast(grad_kl_copy, t, grad_sums + t.row);
    } else {
      std::fill_n(grad_kl_copy, t.size(), T(0));
    }
    if (has_grad_ratio) {
      for (int i = 0; i < t.size(); ++i) {
        const Exp<T> e = Gaussian<T>(mu[i], logvar[i]).e;
        scaled[i] = e.scaled;
        rest[i] = e.rest;
      }
    }
    // Sums over the samples of grad_z and of grad_z eps; of one sample, grad_z itself.
    const T* sum_z = z_sum;
    if (samples != 1) {
      std::fill_n(z_sum, t.size(), T(0));
      std::fill_n(z_eps_sum, t.size(), T(0));
    }
    for (int64_t k = 0; k < samples; ++k) {
      fill_noise<Isa>(eps, t, key, static_cast<uint32_t>(k), call.row_offset);
      const T* grad_z = grad_z_copy;
      if (call.grad_z != nullptr) {
        grad_z = read(grad_z_copy, of_sample(t, k, call.rows), call.dtype, call.grad_z, call.dim);
      } else {
        std::fill_n(grad_z_copy, t.size(), T(0));
      }
      if (has_grad_ratio) {
        // d log_ratio / dz = -z = -(mu + sigma eps), with sigma in its two factors: it may overflow where the product does not.
        broadcast(weight, t, grad_sums + k * call.rows + t.row);
        for (int i = 0; i < t.size(); ++i) {
          const T weighted_z = weight[i] * mu[i] + ((weight[i] * static_cast<T>(eps[i])) * scaled[i]) * rest[i];
          grad_z_copy[i] = grad_z[i] - weighted_z;
          grad_kl_copy[i] += weight[i];
        }
        grad_z = grad_z_copy;
      }
      if (samples == 1) {
        sum_z = grad_z;
        for (int i = 0; i < t.size(); ++i) z_eps_sum[i] = grad_z[i] * static_cast<T>(eps[i]);
        continue;
      }
      for (int i = 0; i < t.size(); ++i) {
        z_sum[i] += grad_z[i];
        z_eps_sum[i] += grad_z[i] * static_cast<T>(eps[i]);
      }
    }
    T* grad_mu = write(grad_mu_copy, t, call.dtype, call.grad_mu, call.grad_stride);
    T* grad_logvar = write(grad_logvar_copy, t, call.dtype, call.grad_logvar, call.grad_stride);
    if (has_grad_kl) {
      for (int i = 0; i < t.size(); ++i) {
        const Gaussian<T> gaussian(mu[i], logvar[i]);
        grad_mu[i] = gaussian.grad_mu(sum_z[i], grad_kl[i]);
        grad_logvar[i] = gaussian.grad_logvar(slope[i] * z_eps_sum[i], gaussian.twice_from_kl(slope[i] * grad_kl[i]));
      }
    } else {
      for (int i = 0; i < t.size(); ++i) {
        grad_mu[i] = sum_z[i];
        grad_logvar[i] = Gaussian<T>(mu[i], logvar[i]).grad_logvar(slope[i] * z_eps_sum[i], slope[i] * grad_kl[i]);
      }
    }
    written(grad_mu, grad_mu_copy, t, call.dtype, call.grad_mu, call.grad_stride);
    written(grad_logvar, grad_logvar_copy, t, call.dtype, call.grad_logvar, call.grad_stride);
  });
}

// The bytes of the tile's pixels.
template <class T>
VAE_FN void load_bytes(T* bytes, const Tile& t, const Bernoulli& in) {
  for (int i = 0; i < t.rows; ++i) {
    const uint8_t* from = in.pixels + (t.row + i) % in.images * in.pixels_stride + 4 * t.block;
    T* to = bytes + i * t.width();
    for (int j = 0; j < t.valid; ++j) to[j] = static_cast<T>(from[j]);
    for (int j = t.valid; j < t.width(); ++j) to[j] = T(0);
  }
}

template <class Isa, class T>
VAE_FN void rows_of(const LogProb& call, int64_t begin, int64_t end) {
  auto* sums = static_cast<T*>(call.log_prob);
  if (call.dim == 0) {
    std::fill(sums + begin, sums + end, T(0));
    return;
  }
  T copy[kTile], bytes[kTile], terms[kTile], partial[kPartials];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    const T* logits = read(copy, t, call.dtype, call.logits, call.logits_stride);
    load_bytes(bytes, t, call);
    for (int i = 0; i < t.size(); ++i) terms[i] = BernoulliPixel<T>(bytes[i], logits[i]).log_prob();
    clear_padding(terms, t);
    sum_rows(sums, partial, terms, t, call.dim);
  });
}

template <class Isa, class T>
VAE_FN void rows_of(const LogProbBackward& call, int64_t begin, int64_t end) {
  if (call.dim == 0) return;
  const auto* grads = static_cast<const T*>(call.grad);
  T copy[kTile], bytes[kTile], weight[kTile], grad_copy[kTile];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    const T* logits = read(copy, t, call.dtype, call.logits, call.logits_stride);
    load_bytes(bytes, t, call);
    broadcast(weight, t, grads + t.row);
    T* grad = write(grad_copy, t, call.dtype, call.grad_logits, call.dim);
    for (int i = 0; i < t.size(); ++i) grad[i] = BernoulliPixel<T>(bytes[i], logits[i]).grad_logit(weight[i]);
    written(grad, grad_copy, t, call.dtype, call.grad_logits, call.dim);
  });
}

template <class Isa, class T>
VAE_FN void rows_of(const LogProbAndGradient& call, int64_t begin, int64_t end) {
  auto* sums = static_cast<T*>(call.log_prob);
  if (call.dim == 0) {
    std::fill(sums + begin, sums + end, T(0));
    return;
  }
  const auto weight = static_cast<T>(call.weight);
  T copy[kTile], bytes[kTile], terms[kTile], grad_copy[kTile], partial[kPartials];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    const T* logits = read(copy, t, call.dtype, call.logits, call.logits_stride);
    load_bytes(bytes, t, call);
    T* grad = write(grad_copy, t, call.dtype, call.grad_logits, call.dim);
    for (int i = 0; i < t.size(); ++i) {
      const BernoulliPixel<T> pixel(bytes[i], logits[i]);
      terms[i] = pixel.log_prob();
      grad[i] = pixel.grad_logit(weight);
    }
    written(grad, grad_copy, t, call.dtype, call.grad_logits, call.dim);
    clear_padding(terms, t);
    sum_rows(sums, partial, terms, t, call.dim);
  });
}

template <class Isa>
VAE_FN void rows_of(const TakePixels& call, int64_t begin, int64_t end) {
  if (call.dim == 0) return;
  PhiloxArrays a;
  uint32_t words[kTile];  // an element each
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    if (call.key != nullptr) {
      fill_words<Isa>(a, t, noise_key(call.key[0], call.key[1]), 0, call.row_offset);
      for (int i = 0; i < t.rows * t.blocks; ++i) {
        words[4 * i] = a.x0[i];
        words[4 * i + 1] = a.x1[i];
        words[4 * i + 2] = a.x2[i];
        words[4 * i + 3] = a.x3[i];
      }
    }
    for (int i = 0; i < t.rows; ++i) {
      const int64_t row = t.row + i, image = call.index != nullptr ? call.index[row] : row;
      // The next row is anywhere in memory: what no hardware foresees.
      if (call.index != nullptr && row + 1 < end) {
        const uint8_t* next = call.source + call.index[row + 1] * call.source_stride + 4 * t.block;
        for (int j = 0; j < t.valid; j += 64) __builtin_prefetch(next + j);
      }
      const uint8_t* from = call.source + image * call.source_stride + 4 * t.block;
      uint8_t* to = call.pixels + row * call.dim + 4 * t.block;
      if (call.key != nullptr) {
        for (int j = 0; j < t.valid; ++j) to[j] = draw(from[j], words[i * t.width() + j]);
      } else {
        std::memcpy(to, from, static_cast<size_t>(t.valid));
      }
      if (call.x == nullptr) continue;
      float* x = call.x + row * call.dim + 4 * t.block;
      for (int j = 0; j < t.valid; ++j) x[j] = grey(to[j]);
    }
  });
}

// What the arithmetic is done in.
template <class Isa, class Call>
VAE_FN void rows_of_any(const Call& call, int64_t begin, int64_t end) {
  if (call.dtype == Dtype::kFloat64) {
    rows_of<Isa, double>(call, begin, end);
  } else {
    rows_of<Isa, float>(call, begin, end);
  }
}

template <class Isa>
VAE_FN void rows_of_any(const TakePixels& call, int64_t begin, int64_t end) {
  rows_of<Isa>(call, begin, end);
}

// One copy of the loops for each instruction set. Not GCC's target_clones: its choice cannot be overridden, and a test must
// be able to run every copy on one machine.
template <class Call>
using Loop = void (*)(const Call&, int64_t, int64_t);

struct Loops {
  Loop<Forward> forward;
  Loop<Backward> backward;
  Loop<LogProb> log_prob;
  Loop<LogProbBackward> log_prob_backward;
  Loop<LogProbAndGradient> log_prob_and_gradient;
  Loop<TakePixels> take_pixels;
};

#define VAE_LOOP(attribute, isa, Call) \
  [](const Call& call, int64_t begin, int64_t end) attribute { rows_of_any<isa>(call, begin, end); }
#define VAE_LOOPS(attribute, isa)                                                        \
  {VAE_LOOP(attribute, isa, Forward), VAE_LOOP(attribute, isa, Backward),               \
   VAE_LOOP(attribute, isa, LogProb), VAE_LOOP(attribute, isa, LogProbBackward),         \
   VAE_LOOP(attribute, isa, LogProbAndGradient), VAE_LOOP(attribute, isa, TakePixels)}

struct Capability {
  const char* name;
  bool (*runs_here)();
  Loops loops;
};

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const Capability kCapabilities[] = {
    {"default", [] { return true; }, VAE_LOOPS(, Portable)},
#if defined(__x86_64__)
    {"avx2", has_avx2, VAE_LOOPS(VAE_AVX2, Avx2)},
    {"avx512", has_avx512, VAE_LOOPS(VAE_AVX512, Avx512)},
#endif
};

const Capability* best_capability() {
  const Capability* best = kCapabilities;
  for (const Capability& c : kCapabilities) {
    if (c.runs_here()) best = &c;
  }
  return best;
}

const Capability* current = best_capability();

}  // namespace

namespace cpu {

void run(const Forward& call, int64_t begin, int64_t end) { current->loops.forward(call, begin, end); }
void run(const Backward& call, int64_t begin, int64_t end) { current->loops.backward(call, begin, end); }
void run(const LogProb& call, int64_t begin, int64_t end) { current->loops.log_prob(call, begin, end); }
void run(const LogProbBackward& call, int64_t begin, int64_t end) { current->loops.log_prob_backward(call, begin, end); }
void run(const LogProbAndGradient& call, int64_t begin, int64_t end) { current->loops.log_prob_and_gradient(call, begin, end); }
void run(const TakePixels& call, int64_t begin, int64_t end) { current->loops.take_pixels(call, begin, end); }

std::vector<std::string> capabilities() {
  std::vector<std::string> names;
  for (const Capability& c : kCapabilities) {
    if (c.runs_here()) names.emplace_back(c.name);
  }
  return names;
}

std::string capability() { return current->name; }

bool set_capability(const std::string& name) {
  for (const Capability& c : kCapabilities) {
    if (name == c.name && c.runs_here()) {
      current = &c;
      return true;
    }
  }
  return false;
}

}  // namespace cpu
}  // namespace vae
