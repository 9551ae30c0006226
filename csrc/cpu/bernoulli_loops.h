// A Bernoulli decoder's log-likelihood and its gradient.
#pragma once

#include "bernoulli.h"
#include "cpu/tile.h"

namespace vae {
namespace {

// The bytes of the tile's pixels.
template <class T>
void load_bytes(T* bytes, const Tile& t, const Bernoulli& in) {
  for (int i = 0; i < t.rows; ++i) {
    const uint8_t* from = in.pixels + (t.row + i) % in.images * in.pixels_stride + 4 * t.block;
    T* to = bytes + i * t.width();
    for (int j = 0; j < t.valid; ++j) to[j] = static_cast<T>(from[j]);
    for (int j = t.valid; j < t.width(); ++j) to[j] = T(0);
  }
}

// LogProb, LogProbBackward or LogProbAndGradient.
template <class T, class Call, bool kValue = Call::kValue, bool kGrad = Call::kGrad>
void process_rows(const Call& call, int64_t begin, int64_t end) {
  T* sums = nullptr;
  if constexpr (kValue) sums = static_cast<T*>(call.log_prob);
  if (call.dim == 0) {
    if constexpr (kValue) std::fill(sums + begin, sums + end, T(0));
    return;
  }
  T logits_copy[kTile], bytes[kTile], terms[kTile], weight[kTile], grad_copy[kTile], partial[kPartials];
  if constexpr (kValue && kGrad) std::fill_n(weight, kTile, static_cast<T>(call.weight));
  for_each_tile(begin, end, call.dim, [&](const Tile& t) {
    const T* logits = read(logits_copy, t, call.dtype, call.logits, call.logits_stride);
    load_bytes(bytes, t, call);
    T* grad = nullptr;
    if constexpr (kGrad) grad = write(grad_copy, t, call.dtype, call.grad_logits, call.dim);
    if constexpr (kGrad && !kValue) broadcast(weight, t, static_cast<const T*>(call.grad) + t.row);
    for (int i = 0; i < t.size(); ++i) {
      const BernoulliPixel<T> pixel(bytes[i], logits[i]);
      if constexpr (kValue) terms[i] = pixel.log_prob();
      if constexpr (kGrad) grad[i] = pixel.grad_logit(weight[i]);
    }
    if constexpr (kGrad) written(grad, grad_copy, t, call.dtype, call.grad_logits, call.dim);
    if constexpr (kValue) {
      clear_padding(terms, t);
      sum_rows(sums, partial, terms, t, call.dim);
    }
  });
}

}  // namespace
}  // namespace vae
