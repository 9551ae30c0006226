// Rows of images, as bytes and as an encoder's input.
#pragma once

#include "bernoulli.h"
#include "cpu/tile_noise.h"

namespace vae {
namespace {

// Copies bytes first .. first + n - 1 of a row; words: one word of noise per byte to draw it with, or null.
VAE_FN void take_row(const TakePixels& call, int64_t row, int64_t end, int64_t first, int64_t n, const uint32_t* words) {
  const int64_t image = call.index != nullptr ? call.index[row] : row;
  // Rows are in random order, which the hardware prefetcher cannot predict.
  if (call.index != nullptr && row + 1 < end) {
    const uint8_t* next = call.source + call.index[row + 1] * call.source_stride + first;
    for (int64_t j = 0; j < n; j += 64) __builtin_prefetch(next + j);
  }
  const uint8_t* from = call.source + image * call.source_stride + first;
  uint8_t* to = call.pixels + row * call.dim + first;
  if (words != nullptr) {
    for (int64_t j = 0; j < n; ++j) to[j] = draw(from[j], words[j]);
  } else {
    std::memcpy(to, from, static_cast<size_t>(n));
  }
  if (call.x == nullptr) return;
  float* x = call.x + row * call.dim + first;
  for (int64_t j = 0; j < n; ++j) x[j] = grey(to[j]);
}

void process_rows(const TakePixels& call, int64_t begin, int64_t end) {
  if (call.dim == 0) return;
  if (call.key == nullptr) {
    for (int64_t row = begin; row < end; ++row) take_row(call, row, end, 0, call.dim, nullptr);
    return;
  }
  PhiloxArrays a;
  uint32_t words[kTile];  // an element each
  for_each_tile(begin, end, call.dim, [&](const Tile& t) {
    fill_words(a, t, noise_key(call.key[0], call.key[1]), 0, call.row_offset);
    for (int i = 0; i < 2 * t.rows * t.blocks; ++i) {
      words[2 * i] = a.even[i];
      words[2 * i + 1] = a.odd[i];
    }
    for (int i = 0; i < t.rows; ++i) take_row(call, t.row + i, end, 4 * t.block, t.valid, words + i * t.width());
  });
}

}  // namespace
}  // namespace vae
