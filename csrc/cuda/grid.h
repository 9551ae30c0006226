// Which thread of the GPU does which element. Plain C++, so that it is tested where there is no GPU.
//
// Four neighbours of a row, one Philox block, belong to one thread. A row is served by `lanes` threads, a power of two: as
// many as it has blocks, up to kPartials. So short rows share a warp, and long ones take a whole thread block and go round:
// lane j does the blocks j, j + lanes, j + 2 lanes, ... and holds the partial sum j that kernels.h speaks of. The rows that a
// thread block does at a time are a row group.
#pragma once

#include <cstdint>

#include "elementary.h"
#include "kernels.h"

namespace vae {

constexpr int kThreads = kPartials;  // of a thread block

struct Grid {
  int64_t rows, row_groups;
  uint32_t blocks;  // of a row
  int log_lanes;

  Grid(int64_t rows, int64_t dim) : rows(rows), blocks(static_cast<uint32_t>((dim + 3) / 4)), log_lanes(0) {
    while (lanes() < kThreads && static_cast<uint32_t>(lanes()) < blocks) ++log_lanes;
    const int64_t rows_of_group = kThreads >> log_lanes;
    row_groups = (rows + rows_of_group - 1) / rows_of_group;
  }

  VAE_FN int lanes() const { return 1 << log_lanes; }
  VAE_FN int lane(int thread) const { return thread & (lanes() - 1); }

  // The thread's row; past the end in idle threads of the last row group.
  VAE_FN int64_t row(int64_t row_group, int thread) const {
    return row_group * (kThreads >> log_lanes) + (thread >> log_lanes);
  }

  // How many blocks of four that row has.
  VAE_FN uint32_t blocks_of(int64_t row) const { return row < rows ? blocks : 0; }
};

}  // namespace vae
