// Memory for one argument of a call, with guard zones around it; and one result of a call, computed by the CPU and by the
// emulated GPU, to be compared bit for bit.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <random>
#include <string>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "kernels.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using vae::Dtype;

inline size_t bytes_of(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2; }
inline Dtype arithmetic_of(Dtype dtype) { return dtype == Dtype::kFloat64 ? dtype : Dtype::kFloat32; }

// Calls f(address) with the address as a pointer to the element type.
template <class F>
auto typed(Dtype dtype, void* at, F&& f) {
  switch (dtype) {
    case Dtype::kFloat32: return f(static_cast<float*>(at));
    case Dtype::kFloat64: return f(static_cast<double*>(at));
    case Dtype::kBFloat16: return f(static_cast<BFloat16*>(at));
    case Dtype::kFloat16: return f(static_cast<Half*>(at));
  }
  std::abort();
}

// Counts errors; the first ones are printed.
struct Failures {
  std::string test_case;  // currently running
  long count = 0;

  void add(const std::string& where, const char* what, int64_t element) {
    if (++count <= 30)
      std::printf("%s %s: %s at element %lld\n", where.c_str(), test_case.c_str(), what, static_cast<long long>(element));
  }
};
inline Failures failures;
inline std::mt19937_64 random_bits;

// n elements that start `offset` elements past a multiple of 64 bytes.
class Buffer {
 public:
  Buffer(int64_t n, size_t element_bytes, int64_t offset = 0)
      : element_(element_bytes),
        bytes_(static_cast<size_t>(n) * element_bytes),
        before_(kGuard + static_cast<size_t>(offset) * element_bytes),
        all_((before_ + bytes_ + kGuard + 63) / 64 * 64),
        base_(static_cast<unsigned char*>(std::aligned_alloc(64, all_))) {
    std::memset(base_, kGuardByte, all_);
    fill(0);
    poison();
  }
  ~Buffer() {
    unpoison();
    std::free(base_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  unsigned char* data() const { return base_ + before_; }
  unsigned char* at(int64_t element) const { return data() + static_cast<size_t>(element) * element_; }
  int64_t size() const { return static_cast<int64_t>(bytes_ / element_); }
  void fill(unsigned char byte) const { std::memset(data(), byte, bytes_); }

  // AddressSanitizer stops at the access itself; the plain build detects what was written.
  void check_guards(const std::string& name) const {
    unpoison();
    for (size_t i = 0; i < all_; ++i) {
      if ((i < before_ || i >= before_ + bytes_) && base_[i] != kGuardByte) {
        failures.add(name, "a write out of bounds",
                     (static_cast<int64_t>(i) - static_cast<int64_t>(before_)) / static_cast<int64_t>(element_));
        break;
      }
    }
    poison();
  }

  // Sums of four uniforms, roughly normal; with `special`, an eighth is extreme, infinite or NaN.
  void fill_with_numbers(Dtype dtype, bool special, double deviation) const {
    static const double kSpecial[] = {0.0,    -0.0,  INFINITY, -INFINITY, NAN,   1e-40, -1e-310, 88.0,
                                      -104.0, 200.0, -400.0,   1e30,      -1e30, 700.0, 65504.0};
    for (int64_t i = 0; i < size(); ++i) {
      const uint64_t word = random_bits();
      double x = 0;
      for (int j = 0; j < 4; ++j) x += static_cast<double>(word >> 16 * j & 0xFFFF) / 65536 - 0.5;
      x *= deviation * std::sqrt(3.0);
      if (special && random_bits() % 8 == 0) x = kSpecial[random_bits() % std::size(kSpecial)];
      typed(dtype, at(i), [x](auto* to) { *to = static_cast<std::decay_t<decltype(*to)>>(x); });
    }
  }

  // Two of three bytes are arbitrary, and one is black or white.
  void fill_with_pixels() const {
    for (int64_t i = 0; i < size(); ++i)
      *at(i) = static_cast<unsigned char>(random_bits() % 3 == 0 ? 255 * (random_bits() % 2) : random_bits());
  }

 private:
  static constexpr size_t kGuard = 4096;
  static constexpr unsigned char kGuardByte = 0x5A;

  void poison() const {
    ASAN_POISON_MEMORY_REGION(base_, before_);
    ASAN_POISON_MEMORY_REGION(base_ + before_ + bytes_, all_ - before_ - bytes_);
  }
  void unpoison() const { ASAN_UNPOISON_MEMORY_REGION(base_, all_); }

  size_t element_, bytes_, before_, all_;
  unsigned char* base_;
};

// Memory for one result of a call: written by the CPU, and twice by the emulated GPU, each time over other initial bytes,
// so that an element that is never written differs.
class Result {
 public:
  enum Side { kCpu, kCuda, kCudaAgain };

  Result(const char* kernel, const char* name, int64_t n, Dtype dtype, int64_t offset)
      : Result(kernel, name, n, bytes_of(dtype), offset, dtype, true) {}
  static Result of_bytes(const char* kernel, const char* name, int64_t n, int64_t offset) {
    return Result(kernel, name, n, 1, offset, Dtype::kFloat32, false);
  }

  unsigned char* on(Side side) const { return sides_[side].data(); }

  // Equal: the same bits, or NaN in all.
  void compare() const {
    for (const Buffer& side : sides_) side.check_guards(name_);
    for (int64_t i = 0; i < sides_[kCpu].size(); ++i) {
      const auto same = [&](Side a, Side b) { return std::memcmp(sides_[a].at(i), sides_[b].at(i), bytes_) == 0; };
      if (same(kCpu, kCuda) && same(kCuda, kCudaAgain)) continue;
      if (numbers_ && is_nan(kCpu, i) && is_nan(kCuda, i) && is_nan(kCudaAgain, i)) continue;
      failures.add(name_, same(kCuda, kCudaAgain) ? "other bits than the CPU's" : "not written, or not the same twice,", i);
    }
  }

 private:
  Result(const char* kernel, const char* name, int64_t n, size_t bytes, int64_t offset, Dtype dtype, bool numbers)
      : name_(std::string(kernel) + ", " + name),
        dtype_(dtype),
        numbers_(numbers),
        bytes_(bytes),
        sides_{{n, bytes, offset}, {n, bytes, offset}, {n, bytes, offset}} {
    sides_[kCuda].fill(0xA5);
    sides_[kCudaAgain].fill(0x3C);
  }

  bool is_nan(Side side, int64_t i) const {
    return typed(dtype_, sides_[side].at(i), [](auto* x) { return std::isnan(static_cast<double>(*x)); });
  }

  std::string name_;
  Dtype dtype_;
  bool numbers_;
  size_t bytes_;
  Buffer sides_[3];
};
