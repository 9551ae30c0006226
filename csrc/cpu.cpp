// The loops on the CPU.
//
// Rows are cut into tiles of up to kPartials Philox blocks (1024 elements), which stay in the first-level cache while a
// few flat loops run over them: sigma and kl, noise, z. Each loop is plain C++ that the compiler vectorises. Short rows share
// a tile, so that [128, 20] fills the vector lanes as [16, 100000] does; long rows take several.
//
// Where a tile of a tensor stands in memory as the loops want it, they read and write it there; otherwise it is copied.
// That spares the copies, and on large tensors more than that: memory is read and written at the pace of the arithmetic,
// where a copy waits for its lines and only then computes (at [8192, 128], both passes, one thread: 9 ns an element with
// copies, 6 in place).
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
void with_type(Dtype dtype, const F& visit) {
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

// Copies of a tile, from and to a tensor; base: row 0 of [.., dim]. They move memory, and there is a loop for each type, so
// they are neither inlined nor compiled for each instruction set.
template <class T>
__attribute__((noinline)) void load(T* tile, const Tile& t, Dtype dtype, const void* base, int64_t stride) {
  with_type<T>(dtype, [&](auto type) {
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
__attribute__((noinline)) void store(const T* tile, const Tile& t, Dtype dtype, void* base, int64_t stride) {
  with_type<T>(dtype, [&](auto type) {
    using Z = typename decltype(type)::type;
    for (int i = 0; i < t.rows; ++i) {
      const T* from = tile + i * t.width();
      Z* to = static_cast<Z*>(base) + (t.row + i) * stride + 4 * t.block;
      for (int j = 0; j < t.valid; ++j) to[j] = static_cast<Z>(from[j]);
    }
  });
}

// Whether the tile's elements follow one another in the tensor, in the type of the arithmetic.
template <class T>
VAE_FN bool in_place(const Tile& t, Dtype dtype, int64_t stride) {
  return dtype == kDtypeOf<T> && t.valid == t.width() && (t.rows == 1 || stride == t.width());
}

// The tile, to read: in the tensor itself, or a copy.
template <class T>
VAE_FN const T* read(T* copy, const Tile& t, Dtype dtype, const void* base, int64_t stride) {
  if (in_place<T>(t, dtype, stride)) return static_cast<const T*>(base) + t.row * stride + 4 * t.block;
  load(copy, t, dtype, base, stride);
  return copy;
}

// The same to write; written() brings a copy home.
template <class T>
VAE_FN T* write(T* copy, const Tile& t, Dtype dtype, void* base, int64_t stride) {
  return in_place<T>(t, dtype, stride) ? static_cast<T*>(base) + t.row * stride + 4 * t.block : copy;
}
template <class T>
VAE_FN void written(const T* tile, const T* copy, const Tile& t, Dtype dtype, void* base, int64_t stride) {
  if (tile == copy) store(copy, t, dtype, base, stride);
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
VAE_FN void forward_rows(const Forward& call, int64_t begin, int64_t end) {
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
VAE_FN void backward_rows(const Backward& call, int64_t begin, int64_t end) {
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
