// Square root, logarithm, sine, cosine and exponential as fixed sequences of IEEE multiplications and additions.
//
// A vendor's math library rounds differently on each device and instruction set. These functions give the same bits on
// all of them, as long as the compiler keeps every multiplication and addition separate: build with -ffp-contract=off
// (host) and --fmad=false (device), never with fast-math.
//
// Polynomials of log, sin and cos: Cephes, single precision (Moshier, 1992). exp: its Taylor series.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define VAE_FN __host__ __device__ __forceinline__
#else
// Always inlined, so that each instruction set's copy of a loop in cpu.cpp gets its own copy of the arithmetic.
#define VAE_FN inline __attribute__((always_inline))
#endif

namespace vae {

template <class To, class From>
VAE_FN To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// c0 + c1 x + c2 x^2 + ..., by Horner's rule.
template <class T>
VAE_FN T polynomial(T, T c0) {
  return c0;
}
template <class T, class... More>
VAE_FN T polynomial(T x, T c0, T c1, More... more) {
  return c0 + x * polynomial(x, c1, more...);
}

// ln(x) of a positive normal x.  x = 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
VAE_FN float log(float x) {
  constexpr uint32_t kSqrtHalf = 0x3f3504f3u;
  const uint32_t shifted = bits_as<uint32_t>(x) - kSqrtHalf;
  const float e = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  const float f = bits_as<float>((shifted & 0x007fffffu) + kSqrtHalf) - 1.0f;
  const float f2 = f * f;
  // clang-format off
  float y = polynomial(f, 3.3333331174e-1f, -2.4999993993e-1f, 2.0000714765e-1f, -1.6668057665e-1f, 1.4249322787e-1f,
                       -1.2420140846e-1f, 1.1676998740e-1f, -1.1514610310e-1f, 7.0376836292e-2f);
  // clang-format on
  y = (y * f) * f2;
  y = y + e * -2.12194440e-4f;  // ln 2 in two parts: 0.693359375 - 2.12194440e-4
  y = y - 0.5f * f2;
  return (f + y) + e * 0.693359375f;
}

// ln(x) = 2 artanh((m - 1) / (m + 1)) + e ln 2: exact enough for float64, where Cephes' polynomial is not.
VAE_FN double log(double x) {
  constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcdull;
  const uint64_t shifted = bits_as<uint64_t>(x) - kSqrtHalf;
  const double e = static_cast<double>(static_cast<int32_t>(shifted >> 32) >> 20);
  const double f = bits_as<double>((shifted & 0x000fffffffffffffull) + kSqrtHalf) - 1.0;
  const double s = f / (2.0 + f);
  const double s2 = s * s;
  // clang-format off
  const double tail = s2 * polynomial(s2, 1 / 3., 1 / 5., 1 / 7., 1 / 9., 1 / 11., 1 / 13., 1 / 15., 1 / 17., 1 / 19., 1 / 21.);
  // clang-format on
  return (2.0 * s + (2.0 * s * tail + e * 1.42860682030941723212e-6)) + e * 6.93145751953125e-1;
}

// sin(x) and cos(x) for |x| <= pi / 4.
VAE_FN float sin_octant(float x) {
  const float x2 = x * x;
  return x + (x * x2) * polynomial(x2, -1.6666654611e-1f, 8.3321608736e-3f, -1.9515295891e-4f);
}
VAE_FN float cos_octant(float x) {
  const float x2 = x * x;
  return (1.0f - 0.5f * x2) + (x2 * x2) * polynomial(x2, 4.166664568298827e-2f, -1.388731625493765e-3f, 2.443315711809948e-5f);
}

// exp(x), kept in parts so that nothing is lost in a difference or in an overflow:
//
//   exp(x) = 2^k e^r,   r = x - k ln 2,  |r| <= ln(2) / 2,   e^r = 1 + r + g,   2^k = third^2 rest
//
// g is summed by itself, so e^r - 1 - r has full relative precision near zero, where the KL divergence needs it. 2^k is kept
// as factors, so y exp(x) is finite wherever the product is, even where exp(x) alone overflows.
template <class T>
struct Exp {
  T k;         // a whole number
  T r, g;      // e^r = 1 + r + g
  T third, rest;  // powers of two

  VAE_FN T times(T y) const { return (((y * (T(1) + (r + g))) * third) * third) * rest; }
  VAE_FN T value() const { return times(T(1)); }
};

// Beyond the bound y exp(x) is 0 or infinite for every y that is not zero. A NaN passes through both comparisons.
template <class T>
VAE_FN T clamp_keeping_nan(T x, T bound) {
  x = x > bound ? bound : x;
  return x < -bound ? -bound : x;
}

// A third of n, rounded down, for |n| < 2^13.
VAE_FN int32_t third_of(int32_t n) { return (n * 21846) >> 16; }

VAE_FN Exp<float> exp(float x) {
  x = clamp_keeping_nan(x, 194.0f);
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, left in the low bits
  const float shifted = x * 1.44269504088896341f + kRound;
  const int32_t n = static_cast<int32_t>(bits_as<uint32_t>(shifted) - bits_as<uint32_t>(kRound));
  const int32_t third = third_of(n);
  Exp<float> e;
  e.k = shifted - kRound;
  e.r = (x - e.k * 0.693359375f) - e.k * -2.12194440e-4f;
  // clang-format off
  e.g = (e.r * e.r) * polynomial(e.r, 1 / 2.f, 1 / 6.f, 1 / 24.f, 1 / 120.f, 1 / 720.f, 1 / 5040.f);
  // clang-format on
  e.third = bits_as<float>(static_cast<uint32_t>(third + 127) << 23);
  e.rest = bits_as<float>(static_cast<uint32_t>(n - 2 * third + 127) << 23);
  return e;
}

VAE_FN Exp<double> exp(double x) {
  x = clamp_keeping_nan(x, 1456.0);
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = x * 1.44269504088896340736 + kRound;
  const int32_t n = static_cast<int32_t>(static_cast<uint32_t>(bits_as<uint64_t>(shifted)));  // kRound's low word is 0
  const int32_t third = third_of(n);
  Exp<double> e;
  e.k = shifted - kRound;
  e.r = (x - e.k * 6.93145751953125e-1) - e.k * 1.42860682030941723212e-6;
  // clang-format off
  e.g = (e.r * e.r) * polynomial(e.r, 1 / 2., 1 / 6., 1 / 24., 1 / 120., 1 / 720., 1 / 5040., 1 / 40320., 1 / 362880.,
                                 1 / 3628800., 1 / 39916800., 1 / 479001600., 1 / 6227020800.);
  // clang-format on
  e.third = bits_as<double>(static_cast<uint64_t>(third + 1023) << 52);
  e.rest = bits_as<double>(static_cast<uint64_t>(n - 2 * third + 1023) << 52);
  return e;
}

}  // namespace vae
