// The loops for any CPU.
#include "cpu/foreign.h"
#include "cpu/loops_of_target.h"

namespace vae::cpu {

const Loops kDefaultLoops = kLoops;

}  // namespace vae::cpu
