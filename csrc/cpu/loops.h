// The loops of every operator, in one table per instruction set; dispatch.cpp selects one at run time.
//
// Not GCC's target_clones: its choice cannot be overridden, and a test must be able to run every version on one machine. A
// table is the only symbol of its file: the linker would keep only one copy of a shared symbol, possibly with instructions that
// a machine does not support.
#pragma once

#include "kernels.h"

namespace vae::cpu {

template <class Call>
using Loop = void (*)(const Call& call, int64_t begin, int64_t end);

struct Loops {
  Loop<Forward> forward;
  Loop<Backward> backward;
  Loop<ForwardWithPrior> forward_with_prior;
  Loop<BackwardWithPrior> backward_with_prior;
  Loop<SumRows> sum_rows;
  Loop<LogProb> log_prob;
  Loop<LogProbBackward> log_prob_backward;
  Loop<LogProbAndGradient> log_prob_and_gradient;
  Loop<TakePixels> take_pixels;
};

extern const Loops kDefaultLoops;
#if defined(__x86_64__)
extern const Loops kAvx2Loops, kAvx512Loops;
#endif

}  // namespace vae::cpu
