// Rows of images, as bytes and as an encoder's input, on the GPU.
#include "bernoulli.h"
#include "cuda/launch.cuh"
#include "noise.h"

#include <torch/headeronly/macros/Macros.h>

namespace vae {
namespace {

template <bool kVector>
__global__ void __launch_bounds__(kThreads) take_pixels_kernel(const TakePixels call, const Grid grid) {
  const bool draws = call.key != nullptr;
  const NoiseKey key = draws ? noise_key(call.key[0], call.key[1]) : NoiseKey{};
  for (int64_t row_group = blockIdx.x; row_group < grid.row_groups; row_group += gridDim.x) {
    const int64_t row = grid.row(row_group, threadIdx.x);
    const uint32_t blocks = grid.blocks_of(row);
    if (blocks == 0) continue;
    const int64_t image = call.index != nullptr ? call.index[row] : row;
    CUDA_KERNEL_ASSERT(0 <= image && image < call.images && "rows: expected indices of images");
    for (uint32_t block = grid.lane(threadIdx.x); block < blocks; block += grid.lanes()) {
      Vec4<uint8_t> bytes = load<kVector, uint8_t>(call.source + image * call.source_stride, block, call.dim);
      if (draws) {
        const uint32_t noise_row = call.row_offset + static_cast<uint32_t>(row);
        const Words w = philox({block, noise_row, 0, key.step}, key.seed_low, key.seed_high);
        bytes = {{draw(bytes.at[0], w.x0), draw(bytes.at[1], w.x1), draw(bytes.at[2], w.x2), draw(bytes.at[3], w.x3)}};
      }
      store<kVector>(bytes, call.pixels + row * call.dim, block, call.dim);
      if (call.x == nullptr) continue;
      Vec4<float> x;
#pragma unroll
      for (int j = 0; j < 4; ++j) x.at[j] = grey(bytes.at[j]);
      store<kVector>(x, call.x + row * call.dim, block, call.dim);
    }
  }
}

// Whether the rows of a call can be accessed four elements at a time.
bool vectors(const TakePixels& c) {
  return c.dim % 4 == 0 && aligned<uint8_t>(c.source, c.source_stride) && aligned<uint8_t>(c.pixels, c.dim) &&
         aligned<float>(c.x, c.dim);
}

}  // namespace

namespace cuda {

void run(const TakePixels& call, void* stream) {
  launch("take_pixels", vectors(call) ? take_pixels_kernel<true> : take_pixels_kernel<false>, call, stream);
}

}  // namespace cuda
}  // namespace vae
