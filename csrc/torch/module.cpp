// The Python module _C: plain functions without tensors.
//
// TORCH_TARGET_VERSION selects the stable ABI; with it, torch's bundled pybind11 (2.10 to 2.12) cannot be included.
#undef TORCH_TARGET_VERSION
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "digest.h"  // written by setup.py: VAE_EXT_DIGEST
#include "kernels.h"
#include "noise.h"

namespace {

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const vae::Words w = vae::philox({counter[0], counter[1], counter[2], counter[3]}, key[0], key[1]);
  return {w.x0, w.x1, w.x2, w.x3};
}

// vae_ext/source.py searches the file's bytes for it before loading the module, so it must be contiguous.
__attribute__((used)) const char kDigest[] = "vae_ext source digest " VAE_EXT_DIGEST;

pybind11::dict build_info() {
  pybind11::dict info;
  info["digest"] = VAE_EXT_DIGEST;
  info["compiler"] = __VERSION__;
#if defined(VAE_EXT_WITH_CUDA)
  info["cuda"] = VAE_EXT_WITH_CUDA;
#else
  info["cuda"] = pybind11::none();
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled half of vae_ext. The operators are under torch.ops.vae_ext.";
  m.def("build_info", &build_info, "Digest of the sources, compiler, and CUDA version or None.");
  m.def("cpu_capabilities", &vae::cpu::capabilities, "The instruction sets that this machine runs, best last.");
  m.def("cpu_capability", &vae::cpu::capability, "The instruction set in use.");
  m.def("set_cpu_capability", &vae::cpu::set_capability, "Use this one from now on; false if it can't be had.");
  m.def("philox", &philox, "Philox4x32-10 of a counter of four words and a key of two.");
}
