// Maps GPU threads to elements. Plain C++, so that it can be tested without a GPU.
//
// Four neighbours in a row, one Philox block, belong to one thread. A row has `lanes` threads, a power of two: as many as it
// has blocks, up to kPartials. So short rows share a warp, and long ones take a whole thread block and loop: lane j computes
// the blocks j, j + lanes, j + 2 lanes, ... and holds partial sum j of kernels.h. The rows that a thread block processes at a
// time are a row group.
#pragma once

#include <cstdint>

#include "elementary.h"
#include "kernels.h"

namespace vae {

constexpr int kThreads = kPartials;  // per thread block

struct Grid {
  int64_t rows, row_groups;
  uint32_t blocks;  // per row
  int log_lanes;

  Grid(int64_t rows, int64_t dim) : rows(rows), blocks(static_cast<uint32_t>((dim + 3) / 4)), log_lanes(0) {
    while (lanes() < kThreads && static_cast<uint32_t>(lanes()) < blocks) ++log_lanes;
    const int64_t rows_of_group = kThreads >> log_lanes;
    row_groups = (rows + rows_of_group - 1) / rows_of_group;
  }

  VAE_FN int lanes() const { return 1 << log_lanes; }
  VAE_FN int lane(int thread) const { return thread & (lanes() - 1); }

  // The thread's row; out of range in idle threads of the last row group.
  VAE_FN int64_t row(int64_t row_group, int thread) const {
    return row_group * (kThreads >> log_lanes) + (thread >> log_lanes);
  }

  // The number of four-element blocks in that row.
  VAE_FN uint32_t blocks_of(int64_t row) const { return row < rows ? blocks : 0; }
};

}  // namespace vae
