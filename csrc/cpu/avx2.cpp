// The loops for x86 with AVX2.
#define VAE_LOOPS kAvx2Loops
#define VAE_TARGET "avx2"
#include "cpu/loops_of_target.h"
