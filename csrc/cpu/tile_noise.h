// The noise of a tile.
#pragma once

#include "cpu/philox.h"
#include "cpu/tile.h"

namespace vae {
namespace {

// The four words of each of the tile's blocks.
void fill_words(PhiloxArrays& a, const Tile& t, NoiseKey key, uint32_t sample, uint32_t row_offset) {
  static_assert(PhiloxArrays::kLength == kPartials, "a tile's blocks");
  const int blocks = t.rows * t.blocks;
  for (int i = 0; i < t.rows; ++i) {
    for (int j = 0; j < t.blocks; ++j) {
      a.row[i * t.blocks + j] = row_offset + static_cast<uint32_t>(t.row + i);
      a.block[i * t.blocks + j] = static_cast<uint32_t>(t.block + j);
    }
  }
  for (int i = blocks; i % 8 != 0; ++i) a.row[i] = a.block[i] = 0;
  fill_words(a, blocks, key, sample);
}

void fill_normals(float* eps, const Tile& t, NoiseKey key, uint32_t sample, uint32_t row_offset) {
  PhiloxArrays a;
  fill_words(a, t, key, sample, row_offset);
  for (int i = 0; i < t.rows * t.blocks; ++i) {
    const Pair low = box_muller(a.x0[i], a.x1[i]);
    const Pair high = box_muller(a.x2[i], a.x3[i]);
    eps[4 * i] = low.even;
    eps[4 * i + 1] = low.odd;
    eps[4 * i + 2] = high.even;
    eps[4 * i + 3] = high.odd;
  }
}

}  // namespace
}  // namespace vae
