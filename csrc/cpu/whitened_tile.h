// A tile of the posterior after mapping the prior to N(0, 1).
#pragma once

#include "cpu/tile.h"
#include "prior.h"

namespace vae {
namespace {

// Reads a tile of the prior.
template <class T>
class PriorTile {
 public:
  const T *mu, *logvar;

  void load(const Tile& t, const Inputs& in, const Prior& prior) {
    mu = read(mu_copy_, t, in.dtype, prior.mu, prior.mu_stride);
    logvar = read(logvar_copy_, t, in.dtype, prior.logvar, prior.logvar_stride);
  }

 private:
  alignas(64) T mu_copy_[kTile], logvar_copy_[kTile];
};

template <class T>
__attribute__((noinline)) void whiten(T* __restrict mu_out, T* __restrict logvar_out, T* __restrict sigma_out, const T* mu,
                                      const T* logvar, const T* prior_mu, const T* prior_logvar, int n) {
  for (int i = 0; i < n; ++i) {
    const Whitened<T> posterior(mu[i], logvar[i], prior_mu[i], prior_logvar[i]);
    mu_out[i] = posterior.mu();
    logvar_out[i] = posterior.logvar;
    sigma_out[i] = posterior.gaussian().sigma();
  }
}

template <class T>
struct WhitenedTile {
  T mu[kTile], logvar[kTile], sigma[kTile];

  void load(const Tile& t, const T* posterior_mu, const T* posterior_logvar, const PriorTile<T>& prior) {
    whiten(mu, logvar, sigma, posterior_mu, posterior_logvar, prior.mu, prior.logvar, t.size());
  }
};

}  // namespace
}  // namespace vae
