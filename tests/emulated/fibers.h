// Fibers: stacks that take turns on one CPU thread, for the threads of an emulated thread block; and annotations for the
// sanitizers.
//
// ThreadSanitizer treats each fiber as a thread. Switching fibers orders nothing for it: only release() and acquire() do, so
// that accesses of two fibers to the same memory are a race unless a barrier lies between them.
#pragma once

#include <ucontext.h>

#include <memory>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define EMULATOR_NOT_INSTRUMENTED __attribute__((no_sanitize_thread, noinline))
#else
#define EMULATOR_NOT_INSTRUMENTED
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

constexpr size_t kStackBytes = 64 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> memory;  // null: the CPU thread's own stack
  const void* stack;
  size_t stack_bytes;
  void* tsan = nullptr;
};

// Accesses before a release() of a fence happen before accesses after its acquire(). Barriers alternate between two fences, so
// that one does not order what follows the next.
enum Fence { kBlockStart, kBlockEnd, kEvenBarrier, kOddBarrier, kFences };
#if defined(__SANITIZE_THREAD__)
inline char fences[kFences];
EMULATOR_NOT_INSTRUMENTED inline void release(int fence) { __tsan_release(&fences[fence]); }
EMULATOR_NOT_INSTRUMENTED inline void acquire(int fence) { __tsan_acquire(&fences[fence]); }
#else
inline void release(int) {}
inline void acquire(int) {}
#endif

// The next switch to the fiber calls the function.
inline void prepare(Fiber& fiber, void (*function)()) {
  if (fiber.memory == nullptr) fiber.memory = std::make_unique<char[]>(kStackBytes);
  fiber.stack = fiber.memory.get();
  fiber.stack_bytes = kStackBytes;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.memory.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, function, 0);
#if defined(__SANITIZE_THREAD__)
  if (fiber.tsan == nullptr) fiber.tsan = __tsan_create_fiber(0);
#endif
}

// Called first by a fiber's function, with the fiber that switched to it.
inline void entered([[maybe_unused]] Fiber& from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &from.stack, &from.stack_bytes);
#endif
}

// ends: `from` will not be switched to again before it is prepared anew.
EMULATOR_NOT_INSTRUMENTED inline void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool ends = false) {
#if defined(__SANITIZE_THREAD__)
  if (from.tsan == nullptr) from.tsan = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  static Fiber* previous;
  void* fake_stack = nullptr;
  previous = &from;
  __sanitizer_start_switch_fiber(ends ? nullptr : &fake_stack, to.stack, to.stack_bytes);
#endif
  swapcontext(&from.context, &to.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, &previous->stack, &previous->stack_bytes);
#endif
}

}  // namespace emulator
