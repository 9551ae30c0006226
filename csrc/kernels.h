// The interface between the tensor code in torch/ and the kernels of a device: raw pointers, sizes and strides; no PyTorch.
//
// B rows of D elements, K >= 1 Monte Carlo samples. Strides count elements. Z: type of the inputs; A: type of the arithmetic
// and of kl, double for double inputs and otherwise float.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vae {

// A row's KL or log p(x|z) is summed in the same order on every device: blocks of four neighbours, (a + b) + (c + d); block j
// into partial sum j mod kPartials, in increasing j; then the partial sums by halves, p[i] += p[i + w], w = 128 .. 1.
constexpr int kPartials = 256;

// The gradient of a prior shared by all rows is also summed over them in a fixed order: chunks of kRowsOfChunk rows, one row
// after the other, and then the chunks' sums in the same way, until one is left.
constexpr int64_t kRowsOfChunk = 64;

enum class Dtype { kFloat32, kFloat64, kBFloat16, kFloat16 };

// Meaning of the second input: logvar, with sigma = exp(logvar / 2), or rho, with sigma = softplus(rho).
enum class Scale { kExp, kSoftplus };

// The second output: KL per row, KL per element, or log p(z) - log q(z|x) per sample and row.
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

// One Gaussian per row, or one for all with strides of 0.
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
  const void* z;        // from the forward pass, to read sigma eps off it; null: generate the noise again. Only on
                        // the CPU, for float and double, with kExp, and not for kLogRatio
  void* grad_mu;        // [B, D] Z
  void* grad_logvar;    // [B, D] Z
  int64_t grad_stride;  // of both: 2 D if they are the halves of one tensor
};

struct ForwardWithPrior : Forward {
  static constexpr bool kPrior = true;
  Prior prior;
};

// A gradient of the prior: [B, D] Z; or terms of a sum over the rows, in A: on the CPU, where a call begins with a chunk, the
// sums of chunks, and on the GPU [B, D]. SumRows completes the sum.
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
  Dtype dtype;        // of the result: A or, in the last call, Z
  int64_t rows, dim;  // of the result, R
  int64_t terms;      // number of rows to sum, N
  const void* from;   // [N, D] A
  void* to;           // [R, D]
};

// The decoder's logits and bytes 0 .. 255, which represent probabilities of a white pixel.
struct Bernoulli {
  Dtype dtype;
  int64_t rows, images, dim;  // K B, B, D; row r belongs to image r mod B
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

// Both in one pass; the upstream gradient is the same for every log_prob.
struct LogProbAndGradient : Bernoulli {
  static constexpr bool kValue = true, kGrad = true;
  double weight;      // upstream gradient, rounded to A
  void* log_prob;     // [K B] A
  void* grad_logits;  // [K B, D] Z
};

// Gathers rows of images; each byte unchanged, or drawn as 0 or 255 with its probability. Indices must be in 0 .. N - 1: the
// CPU loop does not check, the GPU kernel asserts.
struct TakePixels {
  int64_t images, rows, dim;  // N, B, D
  const uint8_t* source;      // [N, D]
  int64_t source_stride;
  const int64_t* index;  // [B], on the device; null: row i is image i
  const int64_t* key;    // [2], seed and step, on the device; null: bytes are not drawn
  uint32_t row_offset;   // of row 0 in the global batch
  uint8_t* pixels;       // [B, D]
  float* x;              // [B, D], pixels / 255; null: not computed
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

// The instruction sets that this machine supports, best last; the first is always "default".
std::vector<std::string> capabilities();
std::string capability();
// Returns false, without effect, if the machine does not support it.
bool set_capability(const std::string& name);

}  // namespace cpu

namespace cuda {

// Launches on the stream (a cudaStream_t) of the current device. Throws std::runtime_error with the kernel's name.
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
