// One element of the Gaussian operators with a prior N(prior_mu, prior_sigma^2), prior_sigma = exp(prior_logvar / 2).
//
// After an affine map of the prior to N(0, 1), the posterior is N(d, exp(l)), with the same KL and log-ratio (gaussian.h):
//
//   d = (mu - prior_mu) / prior_sigma,   dd/dmu = -dd/dprior_mu = 1 / prior_sigma,   dd/dprior_logvar = -d / 2
//   l = logvar - prior_logvar,           dl/dlogvar = -dl/dprior_logvar = 1
#pragma once

#include "gaussian.h"

namespace vae {

template <class T>
struct PriorGradient {
  T mu, logvar, prior_mu, prior_logvar;
};

// The posterior after that map.
template <class T>
struct Whitened {
  T moved;               // mu - prior_mu
  TwoFactors<T> weight;  // 1 / prior_sigma
  T logvar;              // l

  VAE_FN Whitened(T mu, T logvar, T prior_mu, T prior_logvar)
      : moved(mu - prior_mu), weight(exp(T(-0.5) * prior_logvar)), logvar(logvar - prior_logvar) {}

  VAE_FN T mu() const { return times_mu(T(1)); }
  VAE_FN Gaussian<T> gaussian() const { return Gaussian<T>(mu(), logvar); }

  // y d: all factors are multiplied before the exponential.
  VAE_FN T times_mu(T y) const { return weight.times(y * moved); }

  // From the gradient of kl. slope: dlogvar/drho.
  VAE_FN PriorGradient<T> kl_gradient(T grad_kl, T slope) const {
    const Gaussian<T> posterior = gaussian();
    return gradient(times_mu(grad_kl), posterior.twice_kl_gradient(slope * grad_kl), posterior.twice_kl_gradient(grad_kl));
  }

  // From the gradients of the log-ratio with respect to N(0, 1): sums over the samples of the gradient through the whitened z,
  // of its product with eps, and of grad_ratio.
  VAE_FN PriorGradient<T> ratio_gradient(T grad_z, T grad_z_eps, T grad_ratio, T slope) const {
    const Gaussian<T> posterior = gaussian();
    return gradient(grad_z, posterior.sigma_gradient(grad_z_eps, slope) + slope * grad_ratio,
                    posterior.sigma_gradient(grad_z_eps, T(1)) + grad_ratio);
  }

 private:
  // From the gradient of d, and twice that of l: with slope, and without.
  VAE_FN PriorGradient<T> gradient(T of_mu, T twice_of_rho, T twice_of_logvar) const {
    const T grad_mu = weight.times(of_mu);
    return {grad_mu, T(0.5) * twice_of_rho, -grad_mu, T(-0.5) * (of_mu * mu() + twice_of_logvar)};
  }
};

// The log-ratio's gradient with respect to the whitened z = d + exp(l / 2) eps, -z, times the upstream one. sigma: exp(l / 2).
template <class T>
VAE_FN T log_ratio_gradient(T grad_ratio, T moved, const TwoFactors<T>& weight, const TwoFactors<T>& sigma, T eps) {
  return -(weight.times(grad_ratio * moved) + sigma.times(grad_ratio * eps));
}

}  // namespace vae
