// The part of CUDA that csrc/cuda/*.cu use, on the CPU: g++ -x c++ -I tests/emulated csrc/cuda/gaussian.cu.
//
// The threads of a thread block are fibers. Each runs until it waits at a barrier or a shuffle; when all wait or have ended,
// those that wait for each other continue. A barrier that not every thread of the block reaches, and a shuffle that not every
// lane of its mask reaches, end the program with a message. Thread blocks run one after the other. Not emulated: speed,
// streams, graphs, memory ordering weaker than the CPU's, and nvcc's code generation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define threadIdx (emulator::thread_index())

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 blockIdx, blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};

namespace emulator {

constexpr unsigned kWarpSize = 32;

// Order in which thread blocks run, and the threads of each between two barriers.
enum class Order { kForward, kReverse, kRandom };
inline Order order = Order::kForward;
// Maximum number of thread blocks of a launch in x; 0: no limit.
inline unsigned max_blocks = 0;
inline int multiprocessors = 3;
inline std::set<const void*> kernels_launched;

enum class State { kReady, kAtBarrier, kAtShuffle, kEnded };
struct Thread {
  State state;
  int line;               // where it waits, or waited last
  unsigned mask, source;  // of a shuffle: its lanes, and the lane to receive from
  uint64_t sent, received;
  Fiber fiber;
};

inline std::vector<Thread> threads;
inline unsigned current;
inline Fiber scheduler;
inline std::function<void()> kernel;
inline long barriers_passed = 0;

EMULATOR_NOT_INSTRUMENTED inline dim3 thread_index() { return dim3(current); }

[[noreturn]] inline void fail(const char* what, const Thread& waiting, const Thread& other) {
  const auto index = [](const Thread& thread) { return static_cast<long>(&thread - threads.data()); };
  std::fprintf(stderr, "emulator: %s: block (%u, %u), thread %ld waits in line %d, thread %ld %s line %d\n", what, blockIdx.x,
               blockIdx.y, index(waiting), waiting.line, index(other),
               other.state == State::kEnded ? "has ended, and waited last in" : "is in", other.line);
  std::exit(3);
}

EMULATOR_NOT_INSTRUMENTED inline void run_thread() {
  entered(scheduler);
  const unsigned self = current;
  acquire(kBlockStart);
  kernel();
  release(kBlockEnd);
  threads[self].state = State::kEnded;
  switch_fiber(threads[self].fiber, scheduler, true);
}

EMULATOR_NOT_INSTRUMENTED inline void wait(State state, int line) {
  Thread& self = threads[current];
  self.state = state;
  self.line = line;
  switch_fiber(self.fiber, scheduler);
}

// Resumes all threads that wait at a shuffle; false: there are none.
inline bool pass_shuffles() {
  bool passed = false;
  for (size_t i = 0; i < threads.size(); ++i) {
    Thread& thread = threads[i];
    if (thread.state != State::kAtShuffle) continue;
    const Thread* const warp = &threads[i - i % kWarpSize];
    const auto in_mask = [&](unsigned lane) { return (thread.mask >> lane & 1) != 0; };
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      const Thread& other = warp[lane];
      const bool together = other.state == State::kAtShuffle && other.line == thread.line && other.mask == thread.mask;
      if (in_mask(lane) && !together) fail("a shuffle that not every lane of its mask reaches", thread, other);
    }
    if (!in_mask(i % kWarpSize) || !in_mask(thread.source))
      fail("a shuffle of a lane outside its mask", thread, warp[thread.source]);
    thread.received = warp[thread.source].sent;
    passed = true;
  }
  for (Thread& thread : threads) {
    if (thread.state == State::kAtShuffle) thread.state = State::kReady;
  }
  return passed;
}

// Resumes all threads, which must wait at the same barrier; false: all have ended.
inline bool pass_barrier() {
  const auto waiting =
      std::find_if(threads.begin(), threads.end(), [](const Thread& t) { return t.state == State::kAtBarrier; });
  if (waiting == threads.end()) return false;
  for (const Thread& other : threads) {
    const bool together = other.state == State::kAtBarrier && other.line == waiting->line;
    if (!together) fail("a barrier that not every thread reaches", *waiting, other);
  }
  for (Thread& thread : threads) thread.state = State::kReady;
  ++barriers_passed;
  return true;
}

inline void arrange(std::vector<unsigned>& turns) {
  static std::mt19937 random;
  std::iota(turns.begin(), turns.end(), 0u);
  if (order == Order::kReverse) std::reverse(turns.begin(), turns.end());
  if (order == Order::kRandom) std::shuffle(turns.begin(), turns.end(), random);
}

inline void run_block() {
  std::vector<unsigned> turns(threads.size());
  release(kBlockStart);
  for (Thread& thread : threads) {
    thread.state = State::kReady;
    thread.line = 0;
    prepare(thread.fiber, run_thread);
  }
  do {
    arrange(turns);
    for (const unsigned i : turns) {
      if (threads[i].state != State::kReady) continue;
      current = i;
      switch_fiber(scheduler, threads[i].fiber);
    }
  } while (pass_shuffles() || pass_barrier());
  acquire(kBlockEnd);
}

inline void run_grid() {
  std::vector<unsigned> turns(size_t{gridDim.x} * gridDim.y);
  arrange(turns);
  for (const unsigned i : turns) {
    blockIdx = dim3(i % gridDim.x, i / gridDim.x);
    run_block();
  }
}

}  // namespace emulator

EMULATOR_NOT_INSTRUMENTED inline void __syncthreads(int line = __builtin_LINE()) {
  const int fence = emulator::barriers_passed % 2 == 0 ? emulator::kEvenBarrier : emulator::kOddBarrier;
  emulator::release(fence);
  emulator::wait(emulator::State::kAtBarrier, line);
  emulator::acquire(fence);
}

// Orders no memory accesses, as on the GPU.
template <class T>
EMULATOR_NOT_INSTRUMENTED T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                             int line = __builtin_LINE()) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "one register or two");
  const unsigned lane = emulator::current % emulator::kWarpSize, segment = static_cast<unsigned>(width);
  emulator::Thread& self = emulator::threads[emulator::current];
  self.mask = mask;
  self.source = lane % segment + delta < segment ? lane + delta : lane;
  std::memcpy(&self.sent, &value, sizeof(T));
  emulator::wait(emulator::State::kAtShuffle, line);
  std::memcpy(&value, &self.received, sizeof(T));
  return value;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const unsigned threads = config->blockDim.x;
  const bool possible = config->gridDim.x > 0 && config->gridDim.y > 0 && config->gridDim.y <= 65535 && threads > 0 &&
                        threads % emulator::kWarpSize == 0 && threads <= 1024;
  if (!possible) return cudaErrorInvalidConfiguration;
  blockDim = config->blockDim;
  gridDim = config->gridDim;
  if (emulator::max_blocks > 0) gridDim.x = std::min(gridDim.x, emulator::max_blocks);
  if (emulator::threads.size() != threads) emulator::threads = std::vector<emulator::Thread>(threads);
  emulator::kernel = [&] { kernel(arguments...); };
  emulator::kernels_launched.insert(reinterpret_cast<const void*>(kernel));
  emulator::run_grid();
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = emulator::multiprocessors, cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "invalid configuration"; }
