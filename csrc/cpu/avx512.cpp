// The loops for x86 with AVX-512.
#include "cpu/foreign.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")
#endif
#define VAE_AVX2
#include "cpu/loops_of_target.h"

namespace vae::cpu {

const Loops kAvx512Loops = kLoops;

}  // namespace vae::cpu

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
