// Walks all threads of the GPU's grid over awkward shapes: each block of four elements belongs to exactly one thread, each
// row's partial sums are those that kernels.h defines, and nothing is out of bounds.
#include "cuda/grid.h"

#include <cstdio>
#include <vector>

namespace {

bool covers_once(int64_t rows, int64_t dim) {
  const vae::Grid grid(rows, dim);
  const auto blocks = static_cast<int64_t>(grid.blocks);
  if (blocks != (dim + 3) / 4) return false;
  std::vector<int> touched(static_cast<size_t>(rows * blocks), 0);
  for (int64_t row_group = 0; row_group < grid.row_groups; ++row_group) {
    for (int thread = 0; thread < vae::kThreads; ++thread) {
      const int64_t row = grid.row(row_group, thread);
      for (uint32_t block = static_cast<uint32_t>(grid.lane(thread)); block < grid.blocks_of(row); block += grid.lanes()) {
        if (row >= rows || block >= blocks) return false;
        // kernels.h: block j belongs to partial sum j mod kPartials; with fewer blocks than that, to partial sum j.
        if (static_cast<int>(block % vae::kPartials) % grid.lanes() != grid.lane(thread)) return false;
        if (blocks >= vae::kPartials && grid.lanes() != vae::kPartials) return false;
        ++touched[static_cast<size_t>(row * blocks + block)];
      }
    }
  }
  for (const int times : touched) {
    if (times != 1) return false;
  }
  return true;
}

// The last of more than 2^31 elements is reached by exactly one thread, and no later row is.
bool reaches_the_end(int64_t rows, int64_t dim) {
  const vae::Grid grid(rows, dim);
  int64_t last = -1;
  for (int thread = 0; thread < vae::kThreads; ++thread) {
    const int64_t row = grid.row(grid.row_groups - 1, thread);
    if (grid.blocks_of(row) > 0 && row > last) last = row;
  }
  return last == rows - 1 && grid.row(grid.row_groups - 1, 0) < rows;
}

}  // namespace

int main() {
  int shapes = 0;
  for (const int64_t dim : {1, 2, 3, 4, 5, 7, 8, 20, 31, 33, 63, 64, 65, 128, 255, 257, 401, 1023, 1024, 1025, 2049, 100000}) {
    for (const int64_t rows : {1, 2, 3, 7, 16, 31, 127, 128, 129, 256, 1000}) {
      if (rows * dim > 2'000'000) continue;
      if (!covers_once(rows, dim)) return std::printf("[%ld, %ld] is not covered once\n", long(rows), long(dim)), 1;
      ++shapes;
    }
  }
  for (const auto& [rows, dim] :
       {std::pair<int64_t, int64_t>{3'000'000'000, 1}, {50'000'000, 64}, {1, 8'000'000'000}, {4'000'000'000, 1000}}) {
    if (!reaches_the_end(rows, dim)) return std::printf("[%ld, %ld] ends early or late\n", long(rows), long(dim)), 1;
    ++shapes;
  }
  std::printf("%d shapes\n", shapes);
}
