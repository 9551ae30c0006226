// Rows of images, as bytes and as an encoder's input.
#pragma once

#include "bernoulli.h"
#include "cpu/tile_noise.h"

namespace vae {
namespace {

void process_rows(const TakePixels& of, int64_t begin, int64_t end) {
  const TakePixels call = of;  // a copy, which no store of a byte can change
  if (call.dim == 0) return;
  PhiloxArrays a;
  uint32_t words[kTile];  // an element each
  for_each_tile(begin, end, call.dim, [&](const Tile& t) {
    if (call.key != nullptr) {
      fill_words(a, t, noise_key(call.key[0], call.key[1]), 0, call.row_offset);
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

}  // namespace
}  // namespace vae
