// One element of the operator, forward and backward.
//
//   sigma = exp(logvar / 2),   z = mu + sigma eps
//   kl    = KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + exp(logvar) - 1 - logvar) / 2          in nats
//
// (Kingma, Welling: Auto-Encoding Variational Bayes. 2014, appendix B.)
//
// Near collapse, at logvar close to 0, the textbook form subtracts nearly equal numbers. With e = exp(logvar / 2) in
// parts, r = logvar / 2 and e = 1 + r + g, the difference is a sum of terms that are never negative:
//
//   exp(logvar) - 1 - logvar = r^2 + g (2 + 2 r + g)
#pragma once

#include "elementary.h"

namespace vae {

template <class T>
struct Gaussian {
  T mu, logvar;
  Exp<T> e;  // exp(logvar / 2), in parts

  VAE_FN Gaussian(T mu, T logvar) : mu(mu), logvar(logvar), e(exp(T(0.5) * logvar)) {}

  VAE_FN T sigma() const { return e.value(); }

  // exp(logvar) - 1 - logvar, where it is small enough to cancel: |logvar| <= ln 2.
  VAE_FN T excess_near_zero() const { return e.r * e.r + e.g * (T(2) + T(2) * e.r + e.g); }

  VAE_FN T kl() const {
    const T s = sigma();
    const T excess = e.k == T(0) ? excess_near_zero() : (s * s - T(1)) - logvar;
    return T(0.5) * (mu * mu + excess);
  }

  // Gradients. grad_z and grad_z_eps: what comes for z, and its product with eps, each summed over the samples.
  // dz/dmu = 1, dkl/dmu = mu.
  VAE_FN T grad_mu(T grad_z, T grad_kl) const { return grad_z + grad_kl * mu; }

  // dz/dlogvar = sigma eps / 2. What comes is multiplied in before the exponential, so the gradient is finite wherever the
  // product is.
  VAE_FN T grad_logvar(T grad_z_eps, T twice_from_kl) const { return T(0.5) * (e.times(grad_z_eps) + twice_from_kl); }

  // 2 dkl/dlogvar = exp(logvar) - 1.
  VAE_FN T twice_from_kl(T grad_kl) const {
    return e.k == T(0) ? grad_kl * (T(2) * e.r + excess_near_zero()) : e.times(e.times(grad_kl)) - grad_kl;
  }
};

// log p(z) - log q(z|x) of a sample z = mu + sigma eps: -z^2 / 2 + ln sigma + eps^2 / 2.
// (Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders. 2016.)
template <class T>
VAE_FN T log_ratio(T logvar, T z, T eps) {
  return T(0.5) * (logvar + (eps - z) * (eps + z));
}

// A scale that is given as sigma = softplus(rho) = ln(1 + exp(rho)): the same Gaussian at logvar = 2 ln softplus(rho).
template <class T>
struct Softplus {
  T logvar;
  T slope;  // dlogvar/drho = 2 sigmoid(rho) / softplus(rho)
};

template <class T>
VAE_FN Softplus<T> softplus(T rho) {
  const T t = exp(rho < T(0) ? rho : -rho).value();
  const T w = T(1) + t;
  const T q = w == T(1) ? T(1) : log(w) / (w - T(1));  // ln(1 + t) / t, without the rounding of 1 + t
  // rho < 0: softplus = q t and ln t = rho.  rho >= 0: softplus = rho + q t.  log() reads no infinity and no NaN.
  const T s = rho + q * t;
  const T ln = rho < T(0) ? rho + log(q) : (s < T(INFINITY) ? log(s) : s);
  return {T(2) * ln, T(2) / (w * (rho < T(0) ? q : s))};
}

}  // namespace vae
