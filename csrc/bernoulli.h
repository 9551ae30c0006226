// One pixel of a Bernoulli decoder: log-likelihood, forward and backward, binarisation, and grey value.
//
//   log p(x|l) = x log s + (1 - x) log(1 - s),   s = sigmoid(l)            in nats
//
// x is a byte over 255: 0 or 1, or a grey value used as a probability of white. One formula covers black and white, with
// `error_prob`, the probability of the value that the logit's sign opposes; nothing cancels where the logit is right:
//
//   log p = -(error_prob |l| + ln(1 + e^-|l|)),   error_prob = x where l < 0, and 1 - x elsewhere
#pragma once

#include "elementary.h"

namespace vae {

template <class T>
struct BernoulliPixel {
  T logit, error_prob;
  T t;  // e^-|l|, which cannot overflow

  // byte: an integer, 0 .. 255.
  VAE_FN BernoulliPixel(T byte, T logit) : logit(logit), t(exp(-std::fabs(logit)).value()) {
    constexpr T kUnit = static_cast<T>(1 / 255.);
    static_assert(T(255) * kUnit == T(1), "white is 1");
    error_prob = (logit < T(0) ? byte : T(255) - byte) * kUnit;
  }

  VAE_FN T log_prob() const { return -(error_prob * std::fabs(logit) + log1p_of_unit(t)); }

  // d/dl = x - s, times the upstream gradient.
  VAE_FN T grad_logit(T grad) const {
    const T slope = error_prob - t / (T(1) + t);
    return grad * (logit < T(0) ? slope : -slope);
  }
};

// 255 with probability byte / 255, else 0: compares a word of noise with byte 2^32 / 255, which is the byte repeated four
// times, plus a fraction.
VAE_FN uint8_t draw(uint8_t byte, uint32_t word) { return byte != 0 && word <= byte * 0x01010101u ? 255 : 0; }

// Divides, as PyTorch does on the CPU: a product with 1 / 255 is off by an ulp for half of the bytes.
VAE_FN float grey(uint8_t byte) { return static_cast<float>(byte) / 255.0f; }

}  // namespace vae
