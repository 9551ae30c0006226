// The loops for one instruction set. Whoever includes this, once, defines
//   VAE_LOOPS   the name of their table in loops.h, and
//   VAE_TARGET  the extensions of x86 that they may use, AVX2 among them; not defined: those of any CPU.
#if !defined(VAE_TARGET) || defined(__x86_64__)

// All that the loops use and that is not ours, before the compiler may use the extensions: what it does not inline of it the
// linker keeps once for all tables, and that copy must run on every machine.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/loops.h"

#if defined(VAE_TARGET)
#include <immintrin.h>
#define VAE_PRAGMA(...) _Pragma(#__VA_ARGS__)
#define VAE_EXPANDED_PRAGMA(...) VAE_PRAGMA(__VA_ARGS__)
#if defined(__clang__)
VAE_EXPANDED_PRAGMA(clang attribute push(__attribute__((target(VAE_TARGET))), apply_to = function))
#else
VAE_EXPANDED_PRAGMA(GCC target(VAE_TARGET))
#endif
#endif

#include "cpu/bernoulli_loops.h"
#include "cpu/gaussian_loops.h"
#include "cpu/pixel_loops.h"
#include "cpu/prior_loops.h"

namespace vae {
namespace {

// What the arithmetic is done in.
template <class Call>
void process(const Call& call, int64_t begin, int64_t end) {
  if (call.dtype == Dtype::kFloat64) {
    process_rows<double>(call, begin, end);
  } else {
    process_rows<float>(call, begin, end);
  }
}

}  // namespace

const cpu::Loops cpu::VAE_LOOPS{process<Forward>, process<Backward>, process<ForwardWithPrior>, process<BackwardWithPrior>,
                                process<SumRows>, process<LogProb>,  process<LogProbBackward>,  process<LogProbAndGradient>,
                                process_rows};

}  // namespace vae

#if defined(VAE_TARGET) && defined(__clang__)
#pragma clang attribute pop
#endif
#endif
