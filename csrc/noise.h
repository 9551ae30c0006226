// The noise: a pure function of (seed, step, sample, row, dim), the same bits on every device.
//
//   eps(seed, step, sample, row, dim) -> float32, standard normal
//
// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011) gives four words for
// (dim div 4, row, sample, step); Box-Muller converts them to four normals. vae_ext/noise.py does the same in PyTorch.
#pragma once

#include "elementary.h"

namespace vae {

struct Words {
  uint32_t x0, x1, x2, x3;
};

// What the noise depends on besides an element's position: the API's int64 seed and step, truncated for the generator.
struct NoiseKey {
  uint32_t seed_low, seed_high;
  uint32_t step;
};

VAE_FN NoiseKey noise_key(int64_t seed, int64_t step) {
  const uint64_t s = static_cast<uint64_t>(seed);
  return {static_cast<uint32_t>(s), static_cast<uint32_t>(s >> 32), static_cast<uint32_t>(step)};
}

VAE_FN uint32_t high_word(uint32_t a, uint32_t b) { return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32); }

VAE_FN Words philox(Words c, uint32_t key0, uint32_t key1) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    c = {high_word(kMultiplier1, c.x2) ^ c.x1 ^ key0, kMultiplier1 * c.x2, high_word(kMultiplier0, c.x0) ^ c.x3 ^ key1,
         kMultiplier0 * c.x0};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return c;
}

struct Pair {
  float even, odd;
};

// r = sqrt(-2 ln u), (r cos t, r sin t): u uniform in (0, 1] from the first word, t in [0, 2 pi) from the second.
VAE_FN Pair box_muller(uint32_t radius_word, uint32_t angle_word) {
  const float u = (static_cast<float>(radius_word) + 0.5f) * 2.3283064365386963e-10f;  // 2^-32
  const float radius = std::sqrt(-2.0f * log(u));

  // The nearest multiple of pi / 2, and the rest of the angle, as integers without rounding.
  const uint32_t quadrant = (angle_word + 0x20000000u) >> 30;
  const int32_t rest = static_cast<int32_t>(angle_word - (quadrant << 30));
  const float angle = static_cast<float>(rest) * 1.4629180792671596e-9f;  // 2 pi / 2^32
  const float s = sin_octant(angle);
  const float c = cos_octant(angle);

  const bool swap = (quadrant & 1u) != 0;
  const uint32_t cos_sign = ((quadrant + 1u) & 2u) << 30;
  const uint32_t sin_sign = (quadrant & 2u) << 30;
  const float cosine = bits_as<float>(bits_as<uint32_t>(swap ? s : c) ^ cos_sign);
  const float sine = bits_as<float>(bits_as<uint32_t>(swap ? c : s) ^ sin_sign);
  return {radius * cosine, radius * sine};
}

// The four normals of dims 4 * block .. 4 * block + 3.
struct Normals {
  Pair low, high;
};

VAE_FN Normals normals(NoiseKey key, uint32_t sample, uint32_t row, uint32_t block) {
  const Words w = philox({block, row, sample, key.step}, key.seed_low, key.seed_high);
  return {box_muller(w.x0, w.x1), box_muller(w.x2, w.x3)};
}

}  // namespace vae
