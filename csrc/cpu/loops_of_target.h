// The loops for one instruction set. Included once by a file that defines
//   VAE_LOOPS   the name of its table in loops.h, and
//   VAE_TARGET  the x86 extensions that the loops may use, including AVX2; undefined: those of any CPU.
#if !defined(VAE_TARGET) || defined(__x86_64__)

// Everything external that the loops use is included before the extensions are enabled: of functions that are not inlined, the
// linker keeps one copy for all tables, which must run on every machine.
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
#include "cpu/gaussian_backward_loops.h"
#include "cpu/gaussian_loops.h"
#include "cpu/pixel_loops.h"
#include "cpu/prior_loops.h"

namespace vae {
namespace {

// The type of the arithmetic.
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
