// The loops for any CPU.
#define VAE_LOOPS kDefaultLoops
#include "cpu/loops_of_target.h"
