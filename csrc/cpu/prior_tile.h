// A tile of the prior.
#pragma once

#include "cpu/tile.h"

namespace vae {
namespace {

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

}  // namespace
}  // namespace vae
