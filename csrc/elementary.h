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

// For lambdas, after their parameters; functions have VAE_FN.
#define VAE_INLINE __attribute__((always_inline))

#if defined(__CUDACC__)
#define VAE_FN __host__ __device__ __forceinline__
#else
// Always inlined, so that the loops of each instruction set (cpu/loops.h) have their own copy of the arithmetic.
#define VAE_FN inline VAE_INLINE
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

// ln(x) for positive normal x.  x = 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
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

// ln(x) = 2 artanh((m - 1) / (m + 1)) + e ln 2: accurate enough for float64, unlike Cephes' polynomial.
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

// ln(1 + t) for t in [0, 1] = 2 artanh(t / (2 + t)), with full relative precision near 0.
VAE_FN float log1p_of_unit(float t) {
  const float s = t / (2.0f + t);
  const float s2 = s * s;
  return 2.0f * s * polynomial(s2, 1.0f, 1 / 3.f, 1 / 5.f, 1 / 7.f, 1 / 9.f, 1 / 11.f, 1 / 13.f, 1 / 15.f);
}
VAE_FN double log1p_of_unit(double t) {
  const double s = t / (2.0 + t);
  const double s2 = s * s;
  // clang-format off
  return 2.0 * s * polynomial(s2, 1.0, 1 / 3., 1 / 5., 1 / 7., 1 / 9., 1 / 11., 1 / 13., 1 / 15., 1 / 17., 1 / 19., 1 / 21.,
                              1 / 23., 1 / 25., 1 / 27., 1 / 29., 1 / 31., 1 / 33.);
  // clang-format on
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

// exp(x) in parts, so that differences lose no precision and products do not overflow:
//
//   exp(x) = 2^k e^r,   r = x - k ln 2,  |r| <= ln(2) / 2,   e^r = 1 + r + g
//
// g is computed separately, so e^r - 1 - r has full relative precision near zero, as the KL divergence needs. The value is
// stored as two factors, so y exp(x) is finite wherever the product is, even if exp(x) alone overflows (y is not denormal).
template <class T>
struct TwoFactors {
  T scaled, rest;  // 2^half e^r and 2^(k - half), half = k / 2 rounded down

  VAE_FN T times(T y) const { return (y * scaled) * rest; }
  VAE_FN T value() const { return scaled * rest; }
};

template <class T>
struct Exp : TwoFactors<T> {
  T k;     // an integer
  T r, g;  // e^r = 1 + r + g
};

// Beyond +-bound exp(x) is 0 or infinite in T: below, exp() gives 0; above, k stays at its value at the bound and r keeps
// growing, so that an infinite x gives infinity. Limits shifted = k + round to round +- limit, by its bits: as signed integers,
// those of positive numbers are ordered like the numbers, and those of negative ones are below. An infinity or NaN becomes a
// limit; r keeps it. (Comparisons of x with +-bound are vectorised worse.)
template <class Int, class T>
VAE_FN T clamp_shifted(T shifted, T round, Int limit) {
  const Int low = bits_as<Int>(round) - limit, high = bits_as<Int>(round) + limit, bits = bits_as<Int>(shifted);
  const Int below_high = bits < high ? bits : high;
  return bits_as<T>(below_high > low ? below_high : low);
}

VAE_FN float power_of_two(int32_t n, float) { return bits_as<float>(static_cast<uint32_t>(n + 127) << 23); }
VAE_FN double power_of_two(int32_t n, double) { return bits_as<double>(static_cast<uint64_t>(n + 1023) << 52); }

template <class T>
VAE_FN Exp<T> exp_of_parts(T x, T bound, T k, int32_t n, T r, T g) {
  const int32_t half = n >> 1;
  const T scaled = (T(1) + (r + g)) * power_of_two(half, T());
  return {{x < -bound ? T(0) : scaled, power_of_two(n - half, T())}, k, r, g};
}

VAE_FN Exp<float> exp(float x) {
  constexpr float kBound = 172.0f, kLog2E = 1.44269504088896341f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const float shifted = clamp_shifted(x * kLog2E + kRound, kRound, static_cast<int32_t>(kBound * kLog2E));
  const int32_t n = static_cast<int32_t>(bits_as<uint32_t>(shifted) - bits_as<uint32_t>(kRound));
  const float k = shifted - kRound;
  const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  const float g = (r * r) * polynomial(r, 1 / 2.f, 1 / 6.f, 1 / 24.f, 1 / 120.f, 1 / 720.f, 1 / 5040.f);
  return exp_of_parts(x, kBound, k, n, r, g);
}

VAE_FN Exp<double> exp(double x) {
  constexpr double kBound = 1410.0, kLog2E = 1.44269504088896340736;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = clamp_shifted(x * kLog2E + kRound, kRound, static_cast<int64_t>(kBound * kLog2E));
  const int32_t n = static_cast<int32_t>(static_cast<uint32_t>(bits_as<uint64_t>(shifted)));  // kRound's low word is 0
  const double k = shifted - kRound;
  const double r = (x - k * 6.93145751953125e-1) - k * 1.42860682030941723212e-6;
  // clang-format off
  const double g = (r * r) * polynomial(r, 1 / 2., 1 / 6., 1 / 24., 1 / 120., 1 / 720., 1 / 5040., 1 / 40320., 1 / 362880.,
                                        1 / 3628800., 1 / 39916800., 1 / 479001600., 1 / 6227020800.);
  // clang-format on
  return exp_of_parts(x, kBound, k, n, r, g);
}

}  // namespace vae
