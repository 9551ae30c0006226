// All that the loops use and that is not ours. An instruction set's file includes it before it says which one that is: what the
// compiler does not inline of it the linker keeps once for all of them, and that copy must run on every machine.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>
