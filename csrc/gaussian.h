// One element of the Gaussian operators, forward and backward.
//
//   sigma = exp(logvar / 2),   z = mu + sigma eps
//   kl    = KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + exp(logvar) - 1 - logvar) / 2          in nats
//
// (Kingma, Welling: Auto-Encoding Variational Bayes. 2014, appendix B.)
//
// Near collapse, at logvar close to 0, the textbook form subtracts nearly equal numbers. With e = exp(logvar / 2) in parts,
// r = logvar / 2 and e = 1 + r + g, the difference is a sum of non-negative terms:
//
//   exp(logvar) - 1 - logvar = r^2 + g (2 + 2 r + g)
#pragma once

#include "elementary.h"

namespace vae {

template <class T>
struct Gradient {
  T mu, logvar;
};

template <class T>
struct Gaussian {
  T mu, logvar;
  Exp<T> e;  // exp(logvar / 2), in parts

  VAE_FN Gaussian(T mu, T logvar) : mu(mu), logvar(logvar), e(exp(T(0.5) * logvar)) {}

  VAE_FN T sigma() const { return e.value(); }

  VAE_FN T kl() const {
    const T s = sigma();
    const T excess = e.k == T(0) ? excess_near_zero() : (s * s - T(1)) - logvar;
    return T(0.5) * (mu * mu + excess);
  }

  // The gradient from those of z, of sigma and of kl: dz/dmu = 1, dz/dsigma = eps, dsigma/dlogvar = sigma / 2, dkl/dmu = mu.
  // sigma_gradient: sigma eps grad_z, summed over the samples, by either function below. slope: dlogvar/drho.
  VAE_FN Gradient<T> gradient(T grad_z, T sigma_gradient, T grad_kl, T slope) const {
    return {grad_z + grad_kl * mu, T(0.5) * (sigma_gradient + twice_kl_gradient(slope * grad_kl))};
  }

  // The same without kl, since at an infinite mu a grad_kl of 0 would give 0 inf = NaN. grad_ratio is the log-ratio's gradient,
  // or 0; besides its part through z (add_log_ratio_gradient) it has d/dlogvar = 1 / 2.
  VAE_FN Gradient<T> gradient_without_kl(T grad_z, T sigma_gradient, T grad_ratio, T slope) const {
    return {grad_z, T(0.5) * (sigma_gradient + slope * grad_ratio)};
  }

  // From eps: all factors are multiplied before the exponential, so the gradient is finite wherever the product is.
  VAE_FN T sigma_gradient(T grad_z_eps, T slope) const { return e.times(slope * grad_z_eps); }

  // 2 dkl/dlogvar = exp(logvar) - 1, times the upstream gradient.
  VAE_FN T twice_kl_gradient(T grad_kl) const {
    return e.k == T(0) ? grad_kl * (T(2) * e.r + excess_near_zero()) : e.times(e.times(grad_kl)) - grad_kl;
  }

  // Whether sigma eps may be read as z - mu, with the rounded z. With u half a unit in the last place of 1 (2^-24, 2^-53), z
  // has an error of u (|mu| + 2 |sigma eps|) and the difference another u |sigma eps|: here at most u (64 + 3 |eps|) sigma.
  // Below sigma = 2^-100 products with eps may be denormal and lose bits; above 2^100 z may overflow.
  VAE_FN bool noise_is_in_z() const {
    const T s = sigma();
    return (std::fabs(mu) <= T(64) * s) & (s >= T(0x1p-100)) & (s <= T(0x1p100));  // no branches, which vector code would mask
  }

 private:
  // exp(logvar) - 1 - logvar, where small enough to cancel: |logvar| <= ln 2.
  VAE_FN T excess_near_zero() const { return e.r * e.r + e.g * (T(2) + T(2) * e.r + e.g); }
};

// z, a sample from N(mu, sigma^2).
template <class T>
VAE_FN T reparameterize(T mu, T sigma, T eps) {
  return mu + sigma * eps;
}

// log p(z) - log q(z|x) for a sample z = mu + sigma eps: -z^2 / 2 + ln sigma + eps^2 / 2.
// (Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders. 2016.)
template <class T>
VAE_FN T log_ratio(T logvar, T z, T eps) {
  return T(0.5) * (logvar + (eps - z) * (eps + z));
}

// grad_z with the log-ratio's gradient through z: d log_ratio/dz = -z = -(mu + sigma eps). sigma in two factors, since it may
// overflow where the product does not.
template <class T>
VAE_FN T add_log_ratio_gradient(T grad_z, T grad_ratio, T mu, const TwoFactors<T>& sigma, T eps) {
  return grad_z - (grad_ratio * mu + sigma.times(grad_ratio * eps));
}

// A scale given as sigma = softplus(rho) = ln(1 + exp(rho)): the same Gaussian with logvar = 2 ln softplus(rho).
template <class T>
struct Softplus {
  T logvar;
  T slope;  // dlogvar/drho = 2 sigmoid(rho) / softplus(rho)
};

template <class T>
VAE_FN Softplus<T> softplus(T rho) {
  const T t = exp(-std::fabs(rho)).value();
  const T w = T(1) + t;
  const T q = w == T(1) ? T(1) : log(w) / (w - T(1));  // ln(1 + t) / t, without the rounding of 1 + t
  // rho < 0: softplus = q t and ln t = rho.  rho >= 0: softplus = rho + q t.  log() reads no infinity and no NaN.
  const T s = rho + q * t;
  const T ln = rho < T(0) ? rho + log(q) : (s < T(INFINITY) ? log(s) : s);
  return {T(2) * ln, T(2) / (w * (rho < T(0) ? q : s))};
}

}  // namespace vae
