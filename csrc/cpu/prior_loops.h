// The gradients of a Gaussian prior and of the posterior.
#pragma once

#include "cpu/gaussian_backward_loops.h"
#include "cpu/prior_tile.h"
#include "prior.h"

namespace vae {
namespace {

// A tile of the inputs.
template <class T>
struct PriorInputs {
  const T *mu, *logvar, *slope, *prior_mu, *prior_logvar;

  VAE_FN Whitened<T> whitened(int i) const { return Whitened<T>(mu[i], logvar[i], prior_mu[i], prior_logvar[i]); }
};

// Adds the gradients of kl to those of z.
template <class T>
__attribute__((noinline)) void add_kl_gradients(T* __restrict grad_mu, T* __restrict grad_logvar, T* __restrict grad_prior_mu,
                                                T* __restrict grad_prior_logvar, const PriorInputs<T>& in, const T* grad_kl,
                                                int n) {
  for (int i = 0; i < n; ++i) {
    const PriorGradient<T> grad = in.whitened(i).kl_gradient(grad_kl[i], in.slope[i]);
    grad_mu[i] += grad.mu;
    grad_logvar[i] += grad.logvar;
    grad_prior_mu[i] = grad.prior_mu;
    grad_prior_logvar[i] = grad.prior_logvar;
  }
}

// The backward pass of log-ratio and z: sums over the samples, and the gradients computed from them.
template <class T>
class RatioBackwardTile {
 public:
  explicit RatioBackwardTile(const Backward& call) : call_(call), key_(noise_key(call.key[0], call.key[1])) {}

  void sum(const Tile& t, const PriorInputs<T>& in) {
    for (int i = 0; i < t.size(); ++i) {
      const Whitened<T> posterior = in.whitened(i);
      const TwoFactors<T> sigma = posterior.gaussian().e;
      moved_[i] = posterior.moved;
      weight_scaled_[i] = posterior.weight.scaled;
      weight_rest_[i] = posterior.weight.rest;
      sigma_scaled_[i] = sigma.scaled;
      sigma_rest_[i] = sigma.rest;
    }
    for (T* sum : {z_, z_eps_, white_, white_eps_, ratio_}) std::fill_n(sum, t.size(), T(0));
    for (int64_t k = 0; k < call_.samples; ++k) {
      fill_normals(eps_, t, key_, static_cast<uint32_t>(k), call_.row_offset);
      broadcast(grad_ratio_, t, static_cast<const T*>(call_.grad_kl) + k * call_.rows + t.row);
      for (int i = 0; i < t.size(); ++i) {
        const T eps = static_cast<T>(eps_[i]);
        const TwoFactors<T> weight{weight_scaled_[i], weight_rest_[i]}, sigma{sigma_scaled_[i], sigma_rest_[i]};
        const T grad = log_ratio_gradient(grad_ratio_[i], moved_[i], weight, sigma, eps);
        white_[i] += grad;
        white_eps_[i] += grad * eps;
        ratio_[i] += grad_ratio_[i];
      }
      if (call_.grad_z == nullptr) continue;
      const T* grad_z = read(grad_z_copy_, of_sample(t, k, call_.rows), call_.dtype, call_.grad_z, call_.dim);
      for (int i = 0; i < t.size(); ++i) {
        z_[i] += grad_z[i];
        z_eps_[i] += grad_z[i] * static_cast<T>(eps_[i]);
      }
    }
  }

  void gradients(T* __restrict grad_mu, T* __restrict grad_logvar, T* __restrict grad_prior_mu, T* __restrict grad_prior_logvar,
                 const PriorInputs<T>& in, int n) const {
    for (int i = 0; i < n; ++i) {
      const Gaussian<T> posterior(in.mu[i], in.logvar[i]);
      const T sigma = posterior.sigma_gradient(z_eps_[i], in.slope[i]);
      const Gradient<T> of_z = posterior.gradient_without_kl(z_[i], sigma, T(0), in.slope[i]);
      const PriorGradient<T> grad = in.whitened(i).ratio_gradient(white_[i], white_eps_[i], ratio_[i], in.slope[i]);
      grad_mu[i] = of_z.mu + grad.mu;
      grad_logvar[i] = of_z.logvar + grad.logvar;
      grad_prior_mu[i] = grad.prior_mu;
      grad_prior_logvar[i] = grad.prior_logvar;
    }
  }

 private:
  const Backward& call_;
  const NoiseKey key_;
  alignas(64) T moved_[kTile], weight_scaled_[kTile], weight_rest_[kTile], sigma_scaled_[kTile], sigma_rest_[kTile];
  alignas(64) T grad_ratio_[kTile], grad_z_copy_[kTile];
  alignas(64) T z_[kTile], z_eps_[kTile], white_[kTile], white_eps_[kTile], ratio_[kTile];
  alignas(64) float eps_[kTile];
};

template <class T>
VAE_FN void add(T* __restrict sums, const T* __restrict row, int n) {
  for (int i = 0; i < n; ++i) sums[i] += row[i];
}

template <class T>
class PriorBackwardTile {
 public:
  explicit PriorBackwardTile(const BackwardWithPrior& call)
      : call_(call),
        has_ratio_(call.grad_kl != nullptr && call.output == Output::kLogRatio),
        of_z_call_(without_kl(call)),
        of_z_(of_z_call_),
        of_ratio_(call) {}

  // Before the first tile of a chunk, which begins with the row.
  void start_chunk(int64_t row) {
    for (const PriorOutput& out : {call_.grad_prior_mu, call_.grad_prior_logvar}) {
      if (out.sums) std::fill_n(chunk_sums(out, row), call_.dim, T(0));
    }
  }

  void process(const Tile& t) {
    T* grad_mu = write(grad_mu_copy_, t, call_.dtype, call_.grad_mu, call_.grad_stride);
    T* grad_logvar = write(grad_logvar_copy_, t, call_.dtype, call_.grad_logvar, call_.grad_stride);
    T* grad_prior_mu = write_prior(grad_prior_mu_copy_, t, call_.grad_prior_mu);
    T* grad_prior_logvar = write_prior(grad_prior_logvar_copy_, t, call_.grad_prior_logvar);
    fill(t, grad_mu, grad_logvar, grad_prior_mu, grad_prior_logvar);
    written(grad_mu, grad_mu_copy_, t, call_.dtype, call_.grad_mu, call_.grad_stride);
    written(grad_logvar, grad_logvar_copy_, t, call_.dtype, call_.grad_logvar, call_.grad_stride);
    prior_written(grad_prior_mu, grad_prior_mu_copy_, t, call_.grad_prior_mu);
    prior_written(grad_prior_logvar, grad_prior_logvar_copy_, t, call_.grad_prior_logvar);
  }

 private:
  static Backward without_kl(Backward call) {
    call.grad_kl = nullptr;
    return call;
  }

  void fill(const Tile& t, T* grad_mu, T* grad_logvar, T* grad_prior_mu, T* grad_prior_logvar) {
    if (has_ratio_) {
      of_z_.load(t);
    } else {
      of_z_.process(t, grad_mu, grad_logvar);
    }
    if (call_.grad_kl == nullptr) {
      std::fill_n(grad_prior_mu, t.size(), T(0));
      std::fill_n(grad_prior_logvar, t.size(), T(0));
      return;
    }
    prior_.load(t, call_, call_.prior);
    const PriorInputs<T> in{of_z_.mu(), of_z_.logvar(), of_z_.slope(), prior_.mu, prior_.logvar};
    if (has_ratio_) {
      of_ratio_.sum(t, in);
      of_ratio_.gradients(grad_mu, grad_logvar, grad_prior_mu, grad_prior_logvar, in, t.size());
    } else {
      const T* grad_kl = read_grad_kl(grad_kl_copy_, t, call_);
      add_kl_gradients(grad_mu, grad_logvar, grad_prior_mu, grad_prior_logvar, in, grad_kl, t.size());
    }
  }

  T* chunk_sums(const PriorOutput& out, int64_t row) const {
    return static_cast<T*>(out.data) + row / kRowsOfChunk * call_.dim;
  }

  T* write_prior(T* copy, const Tile& t, const PriorOutput& out) const {
    return out.sums ? copy : write(copy, t, call_.dtype, out.data, call_.dim);
  }

  void prior_written(const T* tile, const T* copy, const Tile& t, const PriorOutput& out) const {
    if (!out.sums) return written(tile, copy, t, call_.dtype, out.data, call_.dim);
    T* sums = chunk_sums(out, t.row) + 4 * t.block;
    for (int i = 0; i < t.rows; ++i) add(sums, tile + i * t.width(), t.valid);
  }

  const BackwardWithPrior& call_;
  const bool has_ratio_;
  const Backward of_z_call_;
  BackwardTile<T> of_z_;
  RatioBackwardTile<T> of_ratio_;
  PriorTile<T> prior_;
  alignas(64) T grad_mu_copy_[kTile], grad_logvar_copy_[kTile], grad_prior_mu_copy_[kTile], grad_prior_logvar_copy_[kTile];
  alignas(64) T grad_kl_copy_[kTile];
};

template <class T>
void process_rows(const BackwardWithPrior& call, int64_t begin, int64_t end) {
  if (call.dim == 0) return;
  PriorBackwardTile<T> tile(call);
  const bool sums = call.grad_prior_mu.sums || call.grad_prior_logvar.sums;
  const int64_t step = sums ? kRowsOfChunk : end - begin;
  for (int64_t row = begin; row < end; row += step) {
    tile.start_chunk(row);
    for_each_tile(row, std::min(row + step, end), call.dim, [&](const Tile& t) { tile.process(t); });
  }
}

template <class T>
void process_rows(const SumRows& call, int64_t begin, int64_t end) {
  if (call.dim == 0) return;
  T sums[kTile];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) {
    std::fill_n(sums, t.size(), T(0));
    for (int i = 0; i < t.rows; ++i) {
      const int64_t first = (t.row + i) * kRowsOfChunk, last = std::min(first + kRowsOfChunk, call.terms);
      for (int64_t row = first; row < last; ++row) {
        add(sums + i * t.width(), static_cast<const T*>(call.from) + row * call.dim + 4 * t.block, t.valid);
      }
    }
    store(sums, t, call.dtype, call.to, call.dim);
  });
}

}  // namespace
}  // namespace vae
