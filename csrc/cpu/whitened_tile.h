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
struct WhitenedTile {
  T mu[kTile], logvar[kTile], sigma[kTile];

  void load(const Tile& t, const T* posterior_mu, const T* posterior_logvar, const PriorTile<T>& prior) {
    for (int i = 0; i < t.size(); ++i) {
      const Whitened<T> posterior(posterior_mu[i], posterior_logvar[i], prior.mu[i], prior.logvar[i]);
      mu[i] = posterior.mu();
      logvar[i] = posterior.logvar;
      sigma[i] = posterior.gaussian().sigma();
    }
  }
};

}  // namespace
}  // namespace vae
