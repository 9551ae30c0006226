// The gradients of the reparameterised sample, and of its KL or log-ratio.
#pragma once

#include "cpu/gaussian_loops.h"

namespace vae {
namespace {

// Source of eps for the gradient of sigma: generated again (kMade), read off z (kRead), or read where possible and generated
// elsewhere (kEither). kReadOfOne is kRead with one sample: z is read where it is used, without an array of sums over samples,
// which took a fifth of the time at [8192, 128] (Zen 3, AVX2, one thread).
enum class Noise { kMade, kRead, kReadOfOne, kEither };

// The upstream gradient of kl per element.
template <class T>
const T* read_grad_kl(T* copy, const Tile& t, const Backward& call) {
  if (call.output == Output::kKl) return read(copy, t, kDtypeOf<T>, call.grad_kl, call.dim);
  broadcast(copy, t, static_cast<const T*>(call.grad_kl) + t.row);
  return copy;
}

// The backward pass for a tile.
template <class T>
class BackwardTile {
 public:
  explicit BackwardTile(const Backward& call)
      : call_(call),
        key_(noise_key(call.key[0], call.key[1])),
        has_grad_kl_(call.grad_kl != nullptr && call.output != Output::kLogRatio),
        has_grad_ratio_(call.grad_kl != nullptr && call.output == Output::kLogRatio) {
    // With kExp it stays 1: a branch or a second array would cost more.
    std::fill_n(slope_, kTile, T(1));
  }

  // The inputs, and the upstream gradient of kl per element; 0 for the log-ratio, whose samples are summed instead.
  void load(const Tile& t) {
    mu_ = read(mu_copy_, t, call_.dtype, call_.mu, call_.mu_stride);
    logvar_ = read_logvar(logvar_copy_, slope_, t, call_);
    grad_kl_ = grad_kl_copy_;
    if (has_grad_kl_) {
      grad_kl_ = read_grad_kl(grad_kl_copy_, t, call_);
    } else {
      std::fill_n(grad_kl_copy_, t.size(), T(0));
    }
  }

  // Of the last loaded tile.
  const T* mu() const { return mu_; }
  const T* logvar() const { return logvar_; }
  const T* slope() const { return slope_; }

  void process(const Tile& t, T* grad_mu, T* grad_logvar) {
    load(t);
    const bool has_z = call_.z != nullptr && call_.grad_z != nullptr;
    if (has_z && !needs_noise_) {
      needs_noise_ = !fill_from_z(t, grad_mu, grad_logvar);
      if (!needs_noise_) return;
    }
    sum_with_noise(t);
    if (!has_z) {
      fill<Noise::kMade>(t, grad_mu, grad_logvar);
    } else {
      // An element that needs the noise is usually followed by others: the next tile generates it at once.
      sum_with_z(t);
      needs_noise_ = !fill<Noise::kEither>(t, grad_mu, grad_logvar);
    }
  }

 private:
  bool fill_from_z(const Tile& t, T* grad_mu, T* grad_logvar) {
    if (call_.samples == 1) {
      z_ = read(z_copy_, t, call_.dtype, call_.z, call_.dim);
      sum_z_ = read(grad_z_copy_, t, call_.dtype, call_.grad_z, call_.dim);
      return fill<Noise::kReadOfOne>(t, grad_mu, grad_logvar);
    }
    sum_with_z(t);
    return fill<Noise::kRead>(t, grad_mu, grad_logvar);
  }

  // Sums over samples of grad_z and of grad_z (z - mu); with one sample, grad_z itself.
  void sum_with_z(const Tile& t) {
    if (call_.samples != 1) clear_sums(t, z_moved_sum_);
    for (int64_t k = 0; k < call_.samples; ++k) {
      const Tile sample = of_sample(t, k, call_.rows);
      const T* z = read(z_copy_, sample, call_.dtype, call_.z, call_.dim);
      const T* grad_z = read(grad_z_copy_, sample, call_.dtype, call_.grad_z, call_.dim);
      if (call_.samples == 1) {
        sum_z_ = grad_z;
        for (int i = 0; i < t.size(); ++i) z_moved_sum_[i] = grad_z[i] * (z[i] - mu_[i]);
        return;
      }
      for (int i = 0; i < t.size(); ++i) {
        z_sum_[i] += grad_z[i];
        z_moved_sum_[i] += grad_z[i] * (z[i] - mu_[i]);
      }
    }
  }

  // Sums over samples of grad_z and of grad_z eps; with one sample, grad_z itself.
  void sum_with_noise(const Tile& t) {
    const int64_t samples = call_.grad_z != nullptr || has_grad_ratio_ ? call_.samples : 0;
    if (samples != 1) clear_sums(t, z_eps_sum_);
    if (has_grad_ratio_) {
      for (int i = 0; i < t.size(); ++i) {
        const TwoFactors<T> sigma = Gaussian<T>(mu_[i], logvar_[i]).e;
        scaled_[i] = sigma.scaled;
        rest_[i] = sigma.rest;
      }
    }
    for (int64_t k = 0; k < samples; ++k) {
      fill_normals(eps_, t, key_, static_cast<uint32_t>(k), call_.row_offset);
      const T* grad_z = read_grad_z(t, k);
      if (samples == 1) {
        sum_z_ = grad_z;
        for (int i = 0; i < t.size(); ++i) z_eps_sum_[i] = grad_z[i] * static_cast<T>(eps_[i]);
        return;
      }
      for (int i = 0; i < t.size(); ++i) {
        z_sum_[i] += grad_z[i];
        z_eps_sum_[i] += grad_z[i] * static_cast<T>(eps_[i]);
      }
    }
  }

  void clear_sums(const Tile& t, T* other) {
    sum_z_ = z_sum_;
    std::fill_n(z_sum_, t.size(), T(0));
    std::fill_n(other, t.size(), T(0));
  }

  // The upstream gradient of z for sample k, including the part through the log-ratio.
  const T* read_grad_z(const Tile& t, int64_t k) {
    const T* grad_z = grad_z_copy_;
    if (call_.grad_z != nullptr) {
      grad_z = read(grad_z_copy_, of_sample(t, k, call_.rows), call_.dtype, call_.grad_z, call_.dim);
    } else {
      std::fill_n(grad_z_copy_, t.size(), T(0));
    }
    if (!has_grad_ratio_) return grad_z;
    broadcast(grad_ratio_, t, static_cast<const T*>(call_.grad_kl) + k * call_.rows + t.row);
    for (int i = 0; i < t.size(); ++i) {
      const TwoFactors<T> sigma{scaled_[i], rest_[i]};
      grad_z_copy_[i] = add_log_ratio_gradient(grad_z[i], grad_ratio_[i], mu_[i], sigma, static_cast<T>(eps_[i]));
      grad_kl_copy_[i] += grad_ratio_[i];
    }
    return grad_z_copy_;
  }

  // Returns false if some element's noise cannot be read off z.
  template <Noise kNoise>
  bool fill(const Tile& t, T* grad_mu, T* grad_logvar) const {
    return has_grad_kl_ ? gradients<true, kNoise>(t, grad_mu, grad_logvar) : gradients<false, kNoise>(t, grad_mu, grad_logvar);
  }

  // restrict: compilers check only a limited number of pointer pairs for overlap, and otherwise do not vectorise.
  template <bool kHasKl, Noise kNoise>
  bool gradients(const Tile& t, T* __restrict grad_mu, T* __restrict grad_logvar) const {
    int readable = 1;
    for (int i = 0; i < t.size(); ++i) {
      const Gaussian<T> gaussian(mu_[i], logvar_[i]);
      const T slope = kNoise == Noise::kMade ? slope_[i] : T(1);  // z is read only with kExp
      T sigma_gradient = 0;
      if (kNoise == Noise::kMade || kNoise == Noise::kEither) sigma_gradient = gaussian.sigma_gradient(z_eps_sum_[i], slope);
      if (kNoise != Noise::kMade) {
        // Nor may the sum be infinite where the sum with eps, before the multiplication by sigma, is finite.
        const T moved = kNoise == Noise::kReadOfOne ? sum_z_[i] * (z_[i] - mu_[i]) : z_moved_sum_[i];
        const int in_z = gaussian.noise_is_in_z() & (moved - moved == T(0));
        readable &= in_z;
        sigma_gradient = kNoise != Noise::kEither || in_z ? moved : sigma_gradient;
      }
      const Gradient<T> grad = kHasKl ? gaussian.gradient(sum_z_[i], sigma_gradient, grad_kl_[i], slope)
                                      : gaussian.gradient_without_kl(sum_z_[i], sigma_gradient, grad_kl_[i], slope);
      grad_mu[i] = grad.mu;
      grad_logvar[i] = grad.logvar;
    }
    return readable != 0;
  }

  const Backward& call_;
  const NoiseKey key_;
  const bool has_grad_kl_, has_grad_ratio_;
  bool needs_noise_ = false;

  const T *mu_, *logvar_, *grad_kl_, *sum_z_, *z_;
  alignas(64) T mu_copy_[kTile], logvar_copy_[kTile], grad_kl_copy_[kTile], z_copy_[kTile], grad_z_copy_[kTile];
  alignas(64) T slope_[kTile], scaled_[kTile], rest_[kTile], grad_ratio_[kTile];
  alignas(64) T z_sum_[kTile], z_eps_sum_[kTile], z_moved_sum_[kTile];
  alignas(64) float eps_[kTile];
};

template <class T>
void process_rows(const Backward& call, int64_t begin, int64_t end) {
  if (call.dim == 0) return;
  BackwardTile<T> tile(call);
  alignas(64) T grad_mu_copy[kTile], grad_logvar_copy[kTile];
  for_each_tile(begin, end, call.dim, [&](const Tile& t) {
    T* grad_mu = write(grad_mu_copy, t, call.dtype, call.grad_mu, call.grad_stride);
    T* grad_logvar = write(grad_logvar_copy, t, call.dtype, call.grad_logvar, call.grad_stride);
    tile.process(t, grad_mu, grad_logvar);
    written(grad_mu, grad_mu_copy, t, call.dtype, call.grad_mu, call.grad_stride);
    written(grad_logvar, grad_logvar_copy, t, call.dtype, call.grad_logvar, call.grad_stride);
  });
}

}  // namespace
}  // namespace vae
