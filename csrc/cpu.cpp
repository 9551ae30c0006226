// The loops on the CPU.
//
// Rows are cut into tiles of up to kPartials Philox blocks (1024 elements), which stay in the first-level cache while a
// few flat loops run over them: load, sigma and kl, noise, z. Each loop is plain C++ that the compiler vectorises. Short
// rows share a tile, so that [128, 20] fills the vector lanes as [16, 100000] does; long rows take several.
#include "kernels.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <type_traits>

#include "gaussian.h"
#include "lanes.h"

namespace vae {
namespace {

constexpr int kTile = 4 * kPartials;

// Some whole rows, or a part of one row. Element j of the tile's row i stands at i * width() + j; a last block that is
// not full is padded.
struct Tile {
  int64_t row, block;   // of its first element
  int rows, blocks;     // how many rows, and how many blocks of each
  int valid;            // elements of each row, without the padding
  bool first, last;     // does it begin a row, does it end one

  VAE_FN int width() const { return 4 * blocks; }
  VAE_FN int size() const { return rows * width(); }
};

template <class F>
VAE_FN void for_each_tile(int64_t begin, int64_t end, int64_t dim, const F& visit) {
  const int64_t blocks = (dim + 3) / 4;
  if (blocks <= kPartials) {
    const int rows = static_cast<int>(kPartials / blocks);
    for (int64_t row = begin; row < end; row += rows) {
      visit(Tile{row, 0, static_cast<int>(std::min<int64_t>(rows, end - row)), static_cast<int>(blocks),
                 static_cast<int>(dim), true, true});
    }
    return;
  }
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t block = 0; block < blocks; block += kPartials) {
      const int count = static_cast<int>(std::min<int64_t>(kPartials, blocks - block));
      visit(Tile{row, block, 1, count, static_cast<int>(std::min<int64_t>(4 * count, dim - 4 * block)), block == 0,
                 block + count == blocks});
    }
  }
}

template <class Z>
struct Type {
  using type = Z;
};

template <class T>
constexpr Dtype kDtypeOf = std::is_same_v<T, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// Calls visit with the element type. Only loads and stores know it, so the arithmetic, in T, is compiled twice, not four
// times.
template <class T, class F>
VAE_FN void with_type(Dtype dtype, const F& visit) {
  if constexpr (std::is_same_v<T, double>) {
    visit(Type<double>{});
  } else if (dtype == Dtype::kFloat32) {
    visit(Type<float>{});
  } else if (dtype == Dtype::kBFloat16) {
    visit(Type<torch::headeronly::BFloat16>{});
  } else {
    visit(Type<torch::headeronly::Half>{});
  }
}

// base: row 0 of [.., dim].
template <class T>
VAE_FN void load(T* tile, const Tile& t, Dtype dtype, const void* base, int64_t stride) {
  with_type<T>(dtype, [&](auto type) __attribute__((always_inline)) {
    using Z = typename decltype(type)::type;
    for (int i = 0; i < t.rows; ++i) {
      const Z* from = static_cast<const Z*>(base) + (t.row + i) * stride + 4 * t.block;
      T* to = tile + i * t.width();
      for (int j = 0; j < t.valid; ++j) to[j] = static_cast<T>(from[j]);
      for (int j = t.valid; j < t.width(); ++j) to[j] = T(0);
    }
  });
}

template <class T>
VAE_FN void store(const T* tile, const Tile& t, Dtype dtype, void* base, int64_t stride) {
  with_type<T>(dtype, [&](auto type) __attribute__((always_inline)) {
    using Z = typename decltype(type)::type;
    for (int i = 0; i < t.rows; ++i) {
      const T* from = tile + i * t.width();
      Z* to = static_cast<Z*>(base) + (t.row + i) * stride + 4 * t.block;
      for (int j = 0; j < t.valid; ++j) to[j] = static_cast<Z>(from[j]);
    }
  });
}

// Past the end of a row Philox has made normals for whole blocks; whoever sums over a tile must not see them.
template <class T>
VAE_FN void clear_padding(T* tile, const Tile& t) {
  for (int i = 0; i < t.rows; ++i) std::fill(tile + i * t.width() + t.valid, tile + (i + 1) * t.width(), T(0));
}

// values: one for each row of the tile.
template <class T>
VAE_FN void broadcast(T* tile, const Tile& t, const T* values) {
  for (int i = 0; i < t.rows; ++i) std::fill(tile + i * t.width(), tile + (i + 1) * t.width(), values[i]);
}

template <class Isa>
VAE_FN void fill_noise(float* eps, const Tile& t, NoiseKey key, uint32_t sample, uint32_t row_offset) {
  static_assert(PhiloxArrays::kLength == kPartials, "a tile's blocks");
  const int blocks = t.rows * t.blocks;
  PhiloxArrays a;
  for (int i = 0; i < t.rows; ++i) {
    for (int j = 0; j < t.blocks; ++j) {
      a.row[i * t.blocks + j] = row_offset + static_cast<uint32_t>(t.row + i);
      a.block[i * t.blocks + j] = static_cast<uint32_t>(t.block + j);
    }
  }
  for (int i = blocks; i % 8 != 0; ++i) a.row[i] = a.block[i] = 0;
  Isa::philox(a, blocks, key, sample);
  for (int i = 0; i < blocks; ++i) {
    const Pair low = box_muller(a.x0[i], a.x1[i]);
    const Pair high = box_muller(a.x2[i], a.x3[i]);
    eps[4 * i] = low.even;
    eps[4 * i + 1] = low.odd;
    eps[4 * i + 2] = high.even;
    eps[4 * i + 3] = high.odd;
  }
}

template <class T>
VAE_FN T sum_by_halves(T* partial, int n) {
  int width = 1;
  while (width < n) width *= 2;
  while (width > 1) {
    width /= 2;
    for (int i = 0; i + width < n; ++i) partial[i] += partial[i + width];
    n = std::min(n, width);
  }
  return partial[0];
}

// Adds the tile's rows to their partial sums, in the order that kernels.h fixes, and writes the sums of rows that end here.
template <class T>
VAE_FN void sum_rows(T* sums, T* partial, const T* tile, const Tile& t, int64_t dim) {
  const int blocks = t.rows * t.blocks;
  if (t.first) std::fill(partial, partial + blocks, T(0));
  for (int i = 0; i < blocks; ++i) {
    partial[i] += (tile[4 * i] + tile[4 * i + 1]) + (tile[4 * i + 2] + tile[4 * i + 3]);
  }
  if (!t.last) return;
  const int partials = static_cast<int>(std::min<int64_t>(kPartials, (dim + 3) / 4));
  for (int i = 0; i < t.rows; ++i) sums[t.row + i] = sum_by_halves(partial + i * t.blocks, partials);
}

// The tile of sample k: in [K, B, D] its rows follow those of the samples before it.
VAE_FN Tile of_sample(Tile t, int64_t k, int64_t rows) {
  t.row += k * rows;
  return t;
}

// Loads mu and logvar. slope: dlogvar/drho, with kSoftplus.
template <class T>
VAE_FN void load_inputs(T* mu, T* logvar, T* slope, const Tile& t, const Inputs& in) {
  load(mu, t, in.dtype, in.mu, in.mu_stride);
  load(logvar, t, in.dtype, in.logvar, in.logvar_stride);
  if (in.scale == Scale::kExp) return;
  for (int i = 0; i < t.size(); ++i) {
    const Softplus<T> scale = softplus(logvar[i]);
    logvar[i] = scale.logvar;
    slope[i] = scale.slope;
  }
  clear_padding(logvar, t);
}

// Samples first .. last - 1 of some rows.
template <class Isa, class T>
VAE_FN void forward_samples(const Forward& call, int64_t begin, int64_t end, int64_t first, int64_t last) {
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  auto* sums = static_cast<T*>(call.kl);

  T mu[kTile], logvar[kTile], slope[kTile], sigma[kTile], kl[kTile], z[kTile], partial[kPartials];
  float eps[kTile];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    load_inputs(mu, logvar, slope, t, call);
    for (int i = 0; i < t.size(); ++i) {
      const Gaussian<T> gaussian(mu[i], logvar[i]);
      sigma[i] = gaussian.sigma();
      kl[i] = gaussian.kl();
    }
    if (call.output == Output::kKl) store(kl, t, kDtypeOf<T>, call.kl, call.dim);
    if (call.output == Output::kKlSum) sum_rows(sums, partial, kl, t, call.dim);
    for (int64_t k = first; k < last; ++k) {
      fill_noise<Isa>(eps, t, key, static_cast<uint32_t>(k), call.row_offset);
      for (int i = 0; i < t.size(); ++i) z[i] = mu[i] + sigma[i] * static_cast<T>(eps[i]);
      store(z, of_sample(t, k, call.rows), call.dtype, call.z, call.dim);
      if (call.output != Output::kLogRatio) continue;
      for (int i = 0; i < t.size(); ++i) kl[i] = log_ratio(logvar[i], z[i], static_cast<T>(eps[i]));
      sum_rows(sums + k * call.rows, partial, kl, t, call.dim);
    }
  });
}

template <class Isa, class T>
VAE_FN void forward_rows(const Forward& call, int64_t begin, int64_t end) {
  if (call.dim == 0) {
    const int64_t sums = call.output == Output::kKl ? 0 : call.output == Output::kKlSum ? 1 : call.samples;
    for (int64_t k = 0; k < sums; ++k) std::fill_n(static_cast<T*>(call.kl) + k * call.rows + begin, end - begin, T(0));
  } else if (call.output == Output::kLogRatio && call.dim > kTile) {
    // A sum over several tiles is kept for one sample at a time.
    for (int64_t k = 0; k < call.samples; ++k) forward_samples<Isa, T>(call, begin, end, k, k + 1);
  } else {
    forward_samples<Isa, T>(call, begin, end, 0, call.samples);
  }
}

template <class Isa, class T>
VAE_FN void backward_rows(const Backward& call, int64_t begin, int64_t end) {
  if (call.dim == 0) return;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const auto* grad_sums = static_cast<const T*>(call.grad_kl);
  const bool has_grad_kl = call.grad_kl != nullptr && call.output != Output::kLogRatio;
  const bool has_grad_ratio = call.grad_kl != nullptr && call.output == Output::kLogRatio;

  T mu[kTile], logvar[kTile], slope[kTile], sigma[kTile], grad_z[kTile], grad_kl[kTile], sum_z[kTile], sum_z_eps[kTile];
  float eps[kTile];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    load_inputs(mu, logvar, slope, t, call);
    std::fill_n(sum_z, t.size(), T(0));
    std::fill_n(sum_z_eps, t.size(), T(0));
    std::fill_n(grad_kl, t.size(), T(0));
    if (has_grad_ratio) {
      for (int i = 0; i < t.size(); ++i) sigma[i] = Gaussian<T>(mu[i], logvar[i]).sigma();
    }
    for (int64_t k = 0; (call.grad_z != nullptr || has_grad_ratio) && k < call.samples; ++k) {
      fill_noise<Isa>(eps, t, key, static_cast<uint32_t>(k), call.row_offset);
      if (call.grad_z != nullptr) {
        load(grad_z, of_sample(t, k, call.rows), call.dtype, call.grad_z, call.dim);
      } else {
        std::fill_n(grad_z, t.size(), T(0));
      }
      if (has_grad_ratio) {
        // d log_ratio / dz = -z; its explicit part, d / dlogvar = 1 / 2, is summed in grad_kl.
        const T* of_rows = grad_sums + k * call.rows + t.row;
        for (int i = 0; i < t.rows; ++i) {
          for (int j = i * t.width(); j < (i + 1) * t.width(); ++j) {
            grad_z[j] -= of_rows[i] * (mu[j] + sigma[j] * static_cast<T>(eps[j]));
            grad_kl[j] += of_rows[i];
          }
        }
      }
      for (int i = 0; i < t.size(); ++i) {
        sum_z[i] += grad_z[i];
        sum_z_eps[i] += grad_z[i] * static_cast<T>(eps[i]);
      }
    }
    if (has_grad_kl && call.output == Output::kKl) load(grad_kl, t, kDtypeOf<T>, call.grad_kl, call.dim);
    if (has_grad_kl && call.output == Output::kKlSum) broadcast(grad_kl, t, grad_sums + t.row);
    if (has_grad_kl) {
      for (int i = 0; i < t.size(); ++i) {
        const Gaussian<T> gaussian(mu[i], logvar[i]);
        sum_z[i] = gaussian.grad_mu(sum_z[i], grad_kl[i]);
        sum_z_eps[i] = gaussian.grad_logvar(sum_z_eps[i], gaussian.twice_from_kl(grad_kl[i]));
      }
    } else {
      for (int i = 0; i < t.size(); ++i) {
        sum_z_eps[i] = Gaussian<T>(mu[i], logvar[i]).grad_logvar(sum_z_eps[i], grad_kl[i]);
      }
    }
    if (call.scale == Scale::kSoftplus) {
      for (int i = 0; i < t.size(); ++i) sum_z_eps[i] *= slope[i];
    }
    store(sum_z, t, call.dtype, call.grad_mu, call.grad_stride);
    store(sum_z_eps, t, call.dtype, call.grad_logvar, call.grad_stride);
  });
}

template <class Isa>
VAE_FN void forward_any(const Forward& call, int64_t begin, int64_t end) {
  if (call.dtype == Dtype::kFloat64) {
    forward_rows<Isa, double>(call, begin, end);
  } else {
    forward_rows<Isa, float>(call, begin, end);
  }
}

template <class Isa>
VAE_FN void backward_any(const Backward& call, int64_t begin, int64_t end) {
  if (call.dtype == Dtype::kFloat64) {
    backward_rows<Isa, double>(call, begin, end);
  } else {
    backward_rows<Isa, float>(call, begin, end);
  }
}

// One copy of the loops for each instruction set, chosen at run time. Not GCC's target_clones: its choice cannot be
// overridden, and a test must be able to run every copy on one machine.
struct Capability {
  const char* name;
  bool (*runs_here)();
  void (*forward)(const Forward&, int64_t, int64_t);
  void (*backward)(const Backward&, int64_t, int64_t);
};

void forward_default(const Forward& call, int64_t begin, int64_t end) { forward_any<Portable>(call, begin, end); }
void backward_default(const Backward& call, int64_t begin, int64_t end) { backward_any<Portable>(call, begin, end); }

#if defined(__x86_64__)
VAE_AVX2 void forward_avx2(const Forward& call, int64_t begin, int64_t end) { forward_any<Avx2>(call, begin, end); }
VAE_AVX2 void backward_avx2(const Backward& call, int64_t begin, int64_t end) { backward_any<Avx2>(call, begin, end); }
VAE_AVX512 void forward_avx512(const Forward& call, int64_t begin, int64_t end) { forward_any<Avx512>(call, begin, end); }
VAE_AVX512 void backward_avx512(const Backward& call, int64_t begin, int64_t end) { backward_any<Avx512>(call, begin, end); }

bool has_avx2() { return __builtin_cpu_supports("avx2"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const Capability kCapabilities[] = {
    {"default", [] { return true; }, forward_default, backward_default},
#if defined(__x86_64__)
    {"avx2", has_avx2, forward_avx2, backward_avx2},
    {"avx512", has_avx512, forward_avx512, backward_avx512},
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

void forward(const Forward& call, int64_t begin, int64_t end) { current->forward(call, begin, end); }
void backward(const Backward& call, int64_t begin, int64_t end) { current->backward(call, begin, end); }

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
