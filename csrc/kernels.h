// What the tensor code in torch/ asks of a device: raw pointers, sizes and strides; no PyTorch.
//
// B rows of D elements, K >= 1 Monte Carlo samples. Strides count elements. Z: the inputs' type; A: the type of the
// arithmetic and of kl, double for double and float for every other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vae {

// A row's KL or log p(x|z) is summed in one fixed order on every device: blocks of four neighbours, (a + b) + (c + d); block
// j into the partial sum j mod kPartials, in increasing j; then the partial sums by halves, p[i] += p[i + w], w = 128 .. 1.
constexpr int kPartials = 256;

// The gradient of a prior that is one for all rows is summed over them in one fixed order too: chunks of so many rows, one row
// after the other, and then the chunks' sums in the same way, until one is left.
constexpr int64_t kRowsOfChunk = 64;

enum class Dtype { kFloat32, kFloat64, kBFloat16, kFloat16 };

// What the second input is: logvar, with sigma = exp(logvar / 2), or rho, with sigma = softplus(rho).
enum class Scale { kExp, kSoftplus };

// What comes beside z: KL a row, KL an element, or log p(z) - log q(z|x) a sample and row.
enum class Output { kKlSum, kKl, kLogRatio };

struct Inputs {
  Dtype dtype;
  Scale scale;
  Output output;
  int64_t samples, rows, dim;  // K, B, D
  const void* mu;              // [B, D] Z
  const void* logvar;          // [B, D] Z; rho with kSoftplus
  int64_t mu_stride, logvar_stride;
  const int64_t* key;   // [2], seed and step, on the device
  uint32_t row_offset;  // of row 0 in the global batch
};

// Of one Gaussian for each row, or for all with strides of 0.
struct Prior {
  const void* mu;      // [B, D] Z
  const void* logvar;  // [B, D] Z
  int64_t mu_stride, logvar_stride;
};

struct Forward : Inputs {
  static constexpr bool kPrior = false;  // N(0, 1)
  void* z;                               // [K, B, D] Z
  void* kl;                              // A: kKlSum [B], kKl [B, D], kLogRatio [K, B]
};

struct Backward : Inputs {
  const void* grad_z;   // [K, B, D] Z; null: zero
  const void* grad_kl;  // like kl; null: zero
  const void* z;        // the forward pass's, to read sigma eps off it; null: the noise is made again. On the CPU, float and
                        // double, with kExp, and not for kLogRatio
  void* grad_mu;        // [B, D] Z
  void* grad_logvar;    // [B, D] Z
  int64_t grad_stride;  // of both: 2 D where they are the halves of one tensor
};

struct ForwardWithPrior : Forward {
  static constexpr bool kPrior = true;
  Prior prior;
};

// A gradient of the prior: [B, D] Z. Or what is to be summed over the rows, in A: on the CPU, where a call begins with a chunk,
// the sums of chunks, and on the GPU [B, D]. SumRows does what is left.
struct PriorOutput {
  void* data;
  bool sums;
};

struct BackwardWithPrior : Backward {
  Prior prior;
  PriorOutput grad_prior_mu, grad_prior_logvar;
};

// Each row of the result is the sum of a chunk.
struct SumRows {
  Dtype dtype;        // of the result: A or, of the last, Z
  int64_t rows, dim;  // of the result, R
  int64_t terms;      // how many rows are summed, N
  const void* from;   // [N, D] A
  void* to;           // [R, D]
};

// The decoder's logits of bytes 0 .. 255, which stand for probabilities of a white pixel.
struct Bernoulli {
  Dtype dtype;
  int64_t rows, images, dim;  // K B, B, D; row r is of image r mod B
  const void* logits;         // [K B, D] Z
  int64_t logits_stride;
  const uint8_t* pixels;  // [B, D]
  int64_t pixels_stride;
};

struct LogProb : Bernoulli {
  static constexpr bool kValue = true, kGrad = false;
  void* log_prob;  // [K B] A
};

struct LogProbBackward : Bernoulli {
  static constexpr bool kValue = false, kGrad = true;
  const void* grad;   // [K B] A
  void* grad_logits;  // [K B, D] Z
};

// Both in one pass; what comes for every log_prob is the same number.
struct LogProbAndGradient : Bernoulli {
  static constexpr bool kValue = true, kGrad = true;
  double weight;      // rounded to A
  void* log_prob;     // [K B] A
  void* grad_logits;  // [K B, D] Z
};

// Rows of images; each byte as it is, or drawn to 0 or 255 with its own probability. Indices outside 0 .. N - 1: the CPU's loop
// trusts that there are none, the GPU's kernel asserts it.
struct TakePixels {
  int64_t images, rows, dim;  // N, B, D
  const uint8_t* source;      // [N, D]
  int64_t source_stride;
  const int64_t* index;  // [B], on the device; null: row i is image i
  const int64_t* key;    // [2], seed and step, on the device; null: nothing is drawn
  uint32_t row_offset;   // of row 0 in the global batch
  uint8_t* pixels;       // [B, D]
  float* x;              // [B, D], pixels / 255; null: not wanted
};

namespace cpu {

// Rows begin .. end - 1, on the calling thread.
void run(const Forward& call, int64_t begin, int64_t end);
void run(const Backward& call, int64_t begin, int64_t end);
void run(const ForwardWithPrior& call, int64_t begin, int64_t end);
void run(const BackwardWithPrior& call, int64_t begin, int64_t end);
void run(const SumRows& call, int64_t begin, int64_t end);
void run(const LogProb& call, int64_t begin, int64_t end);
void run(const LogProbBackward& call, int64_t begin, int64_t end);
void run(const LogProbAndGradient& call, int64_t begin, int64_t end);
void run(const TakePixels& call, int64_t begin, int64_t end);

// The instruction sets that this machine runs, best last; the first is always "default".
std::vector<std::string> capabilities();
std::string capability();
// False, and nothing changes, if the machine does not have it.
bool set_capability(const std::string& name);

}  // namespace cpu

namespace cuda {

// Launched on the stream (a cudaStream_t) of the current device. Throws std::runtime_error naming the kernel.
void run(const Forward& call, void* stream);
void run(const Backward& call, void* stream);
void run(const ForwardWithPrior& call, void* stream);
void run(const BackwardWithPrior& call, void* stream);
void run(const SumRows& call, void* stream);
void run(const LogProb& call, void* stream);
void run(const LogProbBackward& call, void* stream);
void run(const LogProbAndGradient& call, void* stream);
void run(const TakePixels& call, void* stream);

}  // namespace cuda

}  // namespace vae
