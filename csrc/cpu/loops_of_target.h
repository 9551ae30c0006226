// The loops for the instruction set of the file that includes this.
#pragma once

#include "cpu/bernoulli_loops.h"
#include "cpu/gaussian_loops.h"
#include "cpu/loops.h"
#include "cpu/pixel_loops.h"

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

constexpr cpu::Loops kLoops{process<Forward>,         process<Backward>,           process<LogProb>,
                            process<LogProbBackward>, process<LogProbAndGradient>, process_rows};

}  // namespace
}  // namespace vae
