// How the CPU loops traverse rows: in tiles, with sums per row.
//
// Rows are divided into tiles of up to kPartials Philox blocks (1024 elements), which stay in the L1 cache while a few simple
// loops run over them. Each loop is plain C++ that the compiler vectorises. Short rows share a tile, so that [128, 20] fills
// the vector lanes like [16, 100000]; long rows take several tiles.
//
// A tile is read and written in place if it is contiguous in its tensor and of the arithmetic's type; otherwise it is copied.
// This saves more than the copies on large tensors: memory is accessed at the pace of the arithmetic, while a copy first waits
// for its cache lines and then computes. It saves a third of the time of both passes at [8192, 128].
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <type_traits>

#include "elementary.h"
#include "kernels.h"

namespace vae {
namespace {

constexpr int kTile = 4 * kPartials;

// Some whole rows, or a part of one row. Element j of the tile's row i is at i * width() + j; an incomplete last block is
// padded.
struct Tile {
  int64_t row, block;  // of its first element
  int rows, blocks;    // number of rows, and of blocks in each
  int valid;           // elements of each row, without padding
  bool first, last;    // whether it begins a row, and ends one

  VAE_FN int width() const { return 4 * blocks; }
  VAE_FN int size() const { return rows * width(); }
};

// The tile of sample k: in [K, B, D] its rows follow those of the previous samples.
VAE_FN Tile of_sample(Tile t, int64_t k, int64_t rows) {
  t.row += k * rows;
  return t;
}

// visit has a single call site: it is inlined, and two sites would double the compile time.
template <class F>
void for_each_tile(int64_t begin, int64_t end, int64_t dim, const F& visit) {
  const int64_t blocks = (dim + 3) / 4, rows_of_tile = std::max<int64_t>(1, kPartials / blocks);
  for (int64_t row = begin; row < end; row += rows_of_tile) {
    const int rows = static_cast<int>(std::min(rows_of_tile, end - row));
    for (int64_t block = 0; block < blocks; block += kPartials) {
      const int count = static_cast<int>(std::min<int64_t>(kPartials, blocks - block));
      const int valid = static_cast<int>(std::min<int64_t>(4 * count, dim - 4 * block));
      visit(Tile{row, block, rows, count, valid, block == 0, block + count == blocks});
    }
  }
}

template <class Z>
struct Type {
  using type = Z;
};

template <class T>
constexpr Dtype kDtypeOf = std::is_same_v<T, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// Calls visit with the element type. Only loads and stores depend on it, so the arithmetic, in T, is compiled twice instead of
// four times.
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

// Copy a tile from and to a tensor; base: row 0 of [.., dim]. Not inlined: there is a loop for each type.
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

// Whether the tile's elements are contiguous in the tensor, in the type of the arithmetic.
template <class T>
VAE_FN bool in_place(const Tile& t, Dtype dtype, int64_t stride) {
  return dtype == kDtypeOf<T> && t.valid == t.width() && (t.rows == 1 || stride == t.width());
}

// Reads a tile in place if it is contiguous, otherwise from a copy.
template <class T>
VAE_FN const T* read(T* copy, const Tile& t, Dtype dtype, const void* base, int64_t stride) {
  if (in_place<T>(t, dtype, stride)) return static_cast<const T*>(base) + t.row * stride + 4 * t.block;
  load(copy, t, dtype, base, stride);
  return copy;
}

// Writes a tile in place if it is contiguous, otherwise to a buffer that written() copies to the tensor.
template <class T>
VAE_FN T* write(T* copy, const Tile& t, Dtype dtype, void* base, int64_t stride) {
  return in_place<T>(t, dtype, stride) ? static_cast<T*>(base) + t.row * stride + 4 * t.block : copy;
}
template <class T>
VAE_FN void written(const T* tile, const T* copy, const Tile& t, Dtype dtype, void* base, int64_t stride) {
  if (tile == copy) store(copy, t, dtype, base, stride);
}

// Number of elements whose arithmetic overlaps: two float vectors of AVX2, since four need more registers than there are. Not
// tuned for other vectors or double.
constexpr int kOverlap = 16;

// Calls visit(i) for i = 0 .. n - 1, where a vector's arithmetic is one long chain, each operation waiting for the one before:
// exponentials and logarithms. The inner loop is unrolled, and gcc alternates between the chains of its vectors
// (-fschedule-insns in setup.py). Used only where it pays (Zen 3, AVX2): it takes 8 to 15% off a forward pass, but nothing off
// the gradients, softplus and Bernoulli, whose loops remain plain.
template <class F>
VAE_FN void for_each_element(int64_t n, const F& visit) {
  int64_t i = 0;
  for (; i + kOverlap <= n; i += kOverlap) {
    for (int64_t j = 0; j < kOverlap; ++j) visit(i + j);
  }
  for (; i < n; ++i) visit(i);
}

// At the end of a row Philox has generated normals for whole blocks; sums over a tile must not include the excess.
template <class T>
VAE_FN void clear_padding(T* tile, const Tile& t) {
  for (int i = 0; i < t.rows; ++i) std::fill(tile + i * t.width() + t.valid, tile + (i + 1) * t.width(), T(0));
}

// values: one per row of the tile.
template <class T>
VAE_FN void broadcast(T* tile, const Tile& t, const T* values) {
  for (int i = 0; i < t.rows; ++i) std::fill(tile + i * t.width(), tile + (i + 1) * t.width(), values[i]);
}

// Sums the first n numbers of each row into its first one. Rows begin stride apart, and n <= stride unless there is only one.
template <class T>
VAE_FN void sum_by_halves(T* partial, int rows, int stride, int n) {
  int width = 1;
  while (width < n) width *= 2;
  while (width > 1) {
    width /= 2;
    for (int i = 0; i < rows; ++i) {
      T* row = partial + i * stride;
      for (int j = 0; j + width < n; ++j) row[j] += row[j + width];
    }
    n = std::min(n, width);
  }
}

// Adds the tile's rows to their partial sums, in the order that kernels.h defines, and writes the sums of rows that end here.
// Not inlined: which of two NaNs a sum keeps depends on the compiled code, and should be the same for every operator.
template <class T>
__attribute__((noinline)) void sum_rows(T* sums, T* partial, const T* tile, const Tile& t, int64_t dim) {
  const int blocks = t.rows * t.blocks;
  if (t.first) std::fill(partial, partial + blocks, T(0));
  for (int i = 0; i < blocks; ++i, tile += 4) partial[i] += (tile[0] + tile[1]) + (tile[2] + tile[3]);
  if (!t.last) return;
  const int partials = static_cast<int>(std::min<int64_t>(kPartials, (dim + 3) / 4));
  sum_by_halves(partial, t.rows, t.blocks, partials);
  for (int i = 0; i < t.rows; ++i) sums[t.row + i] = partial[i * t.blocks];
}

}  // namespace
}  // namespace vae
