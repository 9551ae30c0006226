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

  // dz/dmu = 1, dkl/dmu = mu.  grad_z: summed over the Monte Carlo samples.
  VAE_FN T grad_mu(T grad_z, T grad_kl) const { return grad_z + grad_kl * mu; }

  // dz/dlogvar = sigma eps / 2, dkl/dlogvar = (exp(logvar) - 1) / 2.  grad_z_eps: sum over samples of grad_z eps.
  // The gradient is multiplied in before the exponential, so it is finite wherever their product is.
  VAE_FN T grad_logvar(T grad_z_eps, T grad_kl) const {
    const T from_kl = e.k == T(0) ? grad_kl * (T(2) * e.r + excess_near_zero()) : e.times(e.times(grad_kl)) - grad_kl;
    return T(0.5) * (e.times(grad_z_eps) + from_kl);
  }
};

}  // namespace vae
