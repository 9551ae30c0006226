// The loops for x86 with AVX-512.
#define VAE_LOOPS kAvx512Loops
#define VAE_TARGET "avx2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
#include "cpu/loops_of_target.h"
