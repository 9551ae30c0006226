// The reparameterised sample, and its KL or log-ratio.
#pragma once

#include "cpu/prior_tile.h"
#include "cpu/tile_noise.h"
#include "prior.h"

namespace vae {
namespace {

// Reads logvar. slope: dlogvar/drho, with kSoftplus.
template <class T>
const T* read_logvar(T* copy, T* slope, const Tile& t, const Inputs& in) {
  if (in.scale == Scale::kExp) return read(copy, t, in.dtype, in.logvar, in.logvar_stride);
  load(copy, t, in.dtype, in.logvar, in.logvar_stride);
  for (int i = 0; i < t.size(); ++i) {
    const Softplus<T> scale = softplus(copy[i]);
    copy[i] = scale.logvar;
    slope[i] = scale.slope;
  }
  clear_padding(copy, t);
  return copy;
}

// Not inlined: in the surrounding loop SSE2 runs out of registers, which costs 3% of a forward pass.
template <class T>
__attribute__((noinline)) void sigma_and_kl(T* __restrict sigma, T* __restrict kl, const T* mu, const T* logvar, int n) {
  for_each_element(n, [&](int64_t i) VAE_INLINE {
    const Gaussian<T> gaussian(mu[i], logvar[i]);
    sigma[i] = gaussian.sigma();
    kl[i] = gaussian.kl();
  });
}

template <class T>
__attribute__((noinline)) void sigma_and_kl(T* __restrict sigma, T* __restrict kl, const T* mu, const T* logvar,
                                            const PriorTile<T>& prior, int n) {
  const T *prior_mu = prior.mu, *prior_logvar = prior.logvar;
  for_each_element(n, [&](int64_t i) VAE_INLINE {
    sigma[i] = Gaussian<T>(mu[i], logvar[i]).sigma();
    kl[i] = Whitened<T>(mu[i], logvar[i], prior_mu[i], prior_logvar[i]).gaussian().kl();
  });
}

// A tile of the posterior after the map of the prior to N(0, 1).
template <class T>
struct WhitenedTile {
  T mu[kTile], logvar[kTile], sigma[kTile];
};

template <class T>
__attribute__((noinline)) void whiten(WhitenedTile<T>& __restrict to, const T* mu, const T* logvar, const PriorTile<T>& prior,
                                      int n) {
  const T *prior_mu = prior.mu, *prior_logvar = prior.logvar;
  for_each_element(n, [&](int64_t i) VAE_INLINE {
    const Whitened<T> posterior(mu[i], logvar[i], prior_mu[i], prior_logvar[i]);
    to.mu[i] = posterior.mu();
    to.logvar[i] = posterior.logvar;
    to.sigma[i] = posterior.gaussian().sigma();
  });
}

// Samples first .. last - 1 for some rows.
template <class T, class Call>
void forward_samples(const Call& call, int64_t begin, int64_t end, int64_t first, int64_t last) {
  const NoiseKey key = noise_key(call.key[0], call.key[1]);
  auto* sums = static_cast<T*>(call.kl);

  T mu_copy[kTile], logvar_copy[kTile], z_copy[kTile], slope[kTile], sigma[kTile], kl[kTile], partial[kPartials];
  float eps[kTile];
  [[maybe_unused]] PriorTile<T> prior;
  [[maybe_unused]] WhitenedTile<T> whitened;
  for_each_tile(begin, end, call.dim, [&](const Tile& t) {
    const T* mu = read(mu_copy, t, call.dtype, call.mu, call.mu_stride);
    const T* logvar = read_logvar(logvar_copy, slope, t, call);
    if constexpr (Call::kPrior) {
      prior.load(t, call, call.prior);
      if (call.output == Output::kLogRatio) {
        for (int i = 0; i < t.size(); ++i) sigma[i] = Gaussian<T>(mu[i], logvar[i]).sigma();
        whiten(whitened, mu, logvar, prior, t.size());
      } else {
        sigma_and_kl(sigma, kl, mu, logvar, prior, t.size());
      }
    } else {
      sigma_and_kl(sigma, kl, mu, logvar, t.size());
    }
    if (call.output == Output::kKl) store(kl, t, kDtypeOf<T>, call.kl, call.dim);
    if (call.output == Output::kKlSum) sum_rows(sums, partial, kl, t, call.dim);
    for (int64_t k = first; k < last; ++k) {
      const Tile sample = of_sample(t, k, call.rows);
      T* z = write(z_copy, sample, call.dtype, call.z, call.dim);
      fill_normals(eps, t, key, static_cast<uint32_t>(k), call.row_offset);
      for (int i = 0; i < t.size(); ++i) z[i] = reparameterize(mu[i], sigma[i], static_cast<T>(eps[i]));
      if (call.output == Output::kLogRatio) {
        for (int i = 0; i < t.size(); ++i) {
          const T noise = static_cast<T>(eps[i]);
          if constexpr (Call::kPrior) {
            kl[i] = log_ratio(whitened.logvar[i], reparameterize(whitened.mu[i], whitened.sigma[i], noise), noise);
          } else {
            kl[i] = log_ratio(logvar[i], z[i], noise);
          }
        }
        sum_rows(sums + k * call.rows, partial, kl, t, call.dim);
      }
      written(z, z_copy, sample, call.dtype, call.z, call.dim);
    }
  });
}

// Forward or ForwardWithPrior.
template <class T, class Call>
void forward_rows(const Call& call, int64_t begin, int64_t end) {
  if (call.dim == 0) {
    const int64_t sums = call.output == Output::kKl ? 0 : call.output == Output::kKlSum ? 1 : call.samples;
    for (int64_t k = 0; k < sums; ++k) std::fill_n(static_cast<T*>(call.kl) + k * call.rows + begin, end - begin, T(0));
    return;
  }
  // A sum over several tiles covers one sample at a time.
  const int64_t step = call.output == Output::kLogRatio && call.dim > kTile ? 1 : call.samples;
  for (int64_t k = 0; k < call.samples; k += step) forward_samples<T>(call, begin, end, k, k + step);
}

template <class T>
void process_rows(const Forward& call, int64_t begin, int64_t end) {
  forward_rows<T>(call, begin, end);
}

template <class T>
void process_rows(const ForwardWithPrior& call, int64_t begin, int64_t end) {
  forward_rows<T>(call, begin, end);
}

}  // namespace
}  // namespace vae
