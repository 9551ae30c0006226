// Selects the loops' instruction set.
#include <string>
#include <vector>

#include "cpu/loops.h"
#include "kernels.h"

namespace vae::cpu {
namespace {

struct Capability {
  const char* name;
  bool (*runs_here)();
  const Loops& loops;
};

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const Capability kCapabilities[] = {
    {"default", [] { return true; }, kDefaultLoops},
#if defined(__x86_64__)
    {"avx2", has_avx2, kAvx2Loops},
    {"avx512", has_avx512, kAvx512Loops},
#endif
};

const Capability* best_capability() {
  const Capability* best = kCapabilities;
  for (const Capability& c : kCapabilities) {
    if (c.runs_here()) best = &c;
  }
  return best;
}

const Capability* current = best_capability();

}  // namespace

void run(const Forward& call, int64_t begin, int64_t end) { current->loops.forward(call, begin, end); }
void run(const Backward& call, int64_t begin, int64_t end) { current->loops.backward(call, begin, end); }
void run(const ForwardWithPrior& call, int64_t begin, int64_t end) { current->loops.forward_with_prior(call, begin, end); }
void run(const BackwardWithPrior& call, int64_t begin, int64_t end) { current->loops.backward_with_prior(call, begin, end); }
void run(const SumRows& call, int64_t begin, int64_t end) { current->loops.sum_rows(call, begin, end); }
void run(const LogProb& call, int64_t begin, int64_t end) { current->loops.log_prob(call, begin, end); }
void run(const LogProbBackward& call, int64_t begin, int64_t end) { current->loops.log_prob_backward(call, begin, end); }
void run(const LogProbAndGradient& call, int64_t begin, int64_t end) { current->loops.log_prob_and_gradient(call, begin, end); }
void run(const TakePixels& call, int64_t begin, int64_t end) { current->loops.take_pixels(call, begin, end); }

std::vector<std::string> capabilities() {
  std::vector<std::string> names;
  for (const Capability& c : kCapabilities) {
    if (c.runs_here()) names.emplace_back(c.name);
  }
  return names;
}

std::string capability() { return current->name; }

bool set_capability(const std::string& name) {
  for (const Capability& c : kCapabilities) {
    if (name == c.name && c.runs_here()) {
      current = &c;
      return true;
    }
  }
  return false;
}

}  // namespace vae::cpu
