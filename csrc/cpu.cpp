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
#include "noise.h"

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

VAE_FN void fill_noise(float* eps, const Tile& t, NoiseKey key, uint32_t sample, uint32_t row_offset) {
  const int blocks = t.rows * t.blocks;
  uint32_t row[kPartials], block[kPartials];
  for (int i = 0; i < t.rows; ++i) {
    for (int j = 0; j < t.blocks; ++j) {
      row[i * t.blocks + j] = row_offset + static_cast<uint32_t>(t.row + i);
      block[i * t.blocks + j] = static_cast<uint32_t>(t.block + j);
    }
  }
  uint32_t x0[kPartials], x1[kPartials], x2[kPartials], x3[kPartials];
  for (int i = 0; i < blocks; ++i) {
    const Words w = philox({block[i], row[i], sample, key.step}, key.seed_low, key.seed_high);
    x0[i] = w.x0;
    x1[i] = w.x1;
    x2[i] = w.x2;
    x3[i] = w.x3;
  }
  for (int i = 0; i < blocks; ++i) {
    const Pair low = box_muller(x0[i], x1[i]);
    const Pair high = box_muller(x2[i], x3[i]);
    eps[4 * i] = low.even;
    eps[4 * i + 1] = low.odd;
    eps[4 * i + 2] = high.even;
    eps[4 * i + 3] = high.odd;
  }
}

// Adds the tile's rows to their partial sums, in the order that kernels.h fixes.
template <class T>
VAE_FN void add_blocks(T* partial, const T* tile, const Tile& t) {
  const int blocks = t.rows * t.blocks;
  if (t.first) std::fill(partial, partial + blocks, T(0));
  for (int i = 0; i < blocks; ++i) {
    partial[i] += (tile[4 * i] + tile[4 * i + 1]) + (tile[4 * i + 2] + tile[4 * i + 3]);
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

template <class T>
VAE_FN void forward_rows(const Forward& call, int64_t begin, int64_t end) {
  if (call.dim == 0) {
    if (call.sum_kl) std::fill_n(static_cast<T*>(call.kl) + begin, end - begin, T(0));
    return;
  }
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  auto* kl_sums = static_cast<T*>(call.kl);

  T mu[kTile], logvar[kTile], sigma[kTile], kl[kTile], z[kTile], partial[kPartials];
  float eps[kTile];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    load(mu, t, call.dtype, call.mu, call.mu_stride);
    load(logvar, t, call.dtype, call.logvar, call.logvar_stride);
    for (int i = 0; i < t.size(); ++i) {
      const Gaussian<T> gaussian(mu[i], logvar[i]);
      sigma[i] = gaussian.sigma();
      kl[i] = gaussian.kl();
    }
    if (!call.sum_kl) {
      store(kl, t, kDtypeOf<T>, call.kl, call.dim);
    } else {
      add_blocks(partial, kl, t);
      if (t.last) {
        const int partials = static_cast<int>(std::min<int64_t>(kPartials, (call.dim + 3) / 4));
        for (int i = 0; i < t.rows; ++i) kl_sums[t.row + i] = sum_by_halves(partial + i * t.blocks, partials);
      }
    }
    for (int64_t k = 0; k < call.samples; ++k) {
      fill_noise(eps, t, key, static_cast<uint32_t>(k), call.row_offset);
      for (int i = 0; i < t.size(); ++i) z[i] = mu[i] + sigma[i] * static_cast<T>(eps[i]);
      // Sample k follows the rows of those before it.
      Tile of_sample = t;
      of_sample.row += k * call.rows;
      store(z, of_sample, call.dtype, call.z, call.dim);
    }
  });
}

template <class T>
VAE_FN void backward_rows(const Backward& call, int64_t begin, int64_t end) {
  if (call.dim == 0) return;
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  const auto* grad_kl_sums = static_cast<const T*>(call.grad_kl);

  T mu[kTile], logvar[kTile], grad_z[kTile], sum_z[kTile], sum_z_eps[kTile], grad_kl[kTile];
  float eps[kTile];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) __attribute__((always_inline)) {
    load(mu, t, call.dtype, call.mu, call.mu_stride);
    load(logvar, t, call.dtype, call.logvar, call.logvar_stride);
    std::fill(sum_z, sum_z + t.size(), T(0));
    std::fill(sum_z_eps, sum_z_eps + t.size(), T(0));
    std::fill(grad_kl, grad_kl + t.size(), T(0));
    for (int64_t k = 0; call.grad_z != nullptr && k < call.samples; ++k) {
      Tile of_sample = t;
      of_sample.row += k * call.rows;
      load(grad_z, of_sample, call.dtype, call.grad_z, call.dim);
      fill_noise(eps, t, key, static_cast<uint32_t>(k), call.row_offset);
      for (int i = 0; i < t.size(); ++i) {
        sum_z[i] += grad_z[i];
        sum_z_eps[i] += grad_z[i] * static_cast<T>(eps[i]);
      }
    }
    if (call.grad_kl != nullptr && !call.sum_kl) {
      load(grad_kl, t, kDtypeOf<T>, call.grad_kl, call.dim);
    } else if (call.grad_kl != nullptr) {
      for (int i = 0; i < t.rows; ++i) {
        std::fill(grad_kl + i * t.width(), grad_kl + (i + 1) * t.width(), grad_kl_sums[t.row + i]);
      }
    }
    const bool has_grad_kl = call.grad_kl != nullptr;
    for (int i = 0; i < t.size(); ++i) {
      const Gaussian<T> gaussian(mu[i], logvar[i]);
      // Without a gradient of kl an infinite mu must not make 0 inf = NaN.
      sum_z[i] = has_grad_kl ? gaussian.grad_mu(sum_z[i], grad_kl[i]) : sum_z[i];
      sum_z_eps[i] = gaussian.grad_logvar(sum_z_eps[i], grad_kl[i]);
    }
    store(sum_z, t, call.dtype, call.grad_mu, call.dim);
    store(sum_z_eps, t, call.dtype, call.grad_logvar, call.dim);
  });
}

VAE_FN void forward_any(const Forward& call, int64_t begin, int64_t end) {
  if (call.dtype == Dtype::kFloat64) {
    forward_rows<double>(call, begin, end);
  } else {
    forward_rows<float>(call, begin, end);
  }
}

VAE_FN void backward_any(const Backward& call, int64_t begin, int64_t end) {
  if (call.dtype == Dtype::kFloat64) {
    backward_rows<double>(call, begin, end);
  } else {
    backward_rows<float>(call, begin, end);
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

void forward_default(const Forward& call, int64_t begin, int64_t end) { forward_any(call, begin, end); }
void backward_default(const Backward& call, int64_t begin, int64_t end) { backward_any(call, begin, end); }

#if defined(__x86_64__)
#define VAE_AVX2 __attribute__((target("avx2")))
#define VAE_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")))

VAE_AVX2 void forward_avx2(const Forward& call, int64_t begin, int64_t end) { forward_any(call, begin, end); }
VAE_AVX2 void backward_avx2(const Backward& call, int64_t begin, int64_t end) { backward_any(call, begin, end); }
VAE_AVX512 void forward_avx512(const Forward& call, int64_t begin, int64_t end) { forward_any(call, begin, end); }
VAE_AVX512 void backward_avx512(const Backward& call, int64_t begin, int64_t end) { backward_any(call, begin, end); }

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
