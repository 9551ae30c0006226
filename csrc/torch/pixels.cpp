// torch.ops.vae_ext.binarize and take_pixels: batches of images.
#include "torch/tensors.h"

#include <stdexcept>
#include <tuple>

namespace vae {
namespace {

// Images [N, D], kept alive while the kernels have pointers to them; rows, key and x may be added to the call.
struct Images {
  Tensor images, pixels;
  TakePixels call;

  Images(const Tensor& images_in, int64_t rows, int64_t row_offset_in) : images(with_dense_rows(images_in)) {
    const int64_t dim = check_dim(images.size(1), "images");
    const uint32_t row_offset = check_row_offset(row_offset_in, rows);
    pixels = empty({rows, dim}, ScalarType::Byte, images);
    call = {images.size(0), rows,    dim,        static_cast<const uint8_t*>(images.data_ptr()), images.stride(0),
            nullptr,        nullptr, row_offset, static_cast<uint8_t*>(pixels.data_ptr()),       nullptr};
  }
};

Tensor binarize(const Tensor& pixels, const Tensor& key_in, int64_t row_offset) {
  STD_TORCH_CHECK(pixels.dim() == 2 && pixels.scalar_type() == ScalarType::Byte, "pixels: expected uint8 [B, D]");
  Images in(pixels, pixels.size(0), row_offset);
  const Tensor key = key_of(key_in, pixels);
  in.call.key = static_cast<const int64_t*>(key.data_ptr());
  run(pixels, in.call, in.call.dim);
  return in.pixels;
}

// On a GPU the indices are unknown before the kernel runs, which asserts them. pybind11 converts this to an IndexError.
void check_indices(const int64_t* index, int64_t rows, int64_t images) {
  for (int64_t i = 0; i < rows; ++i) {
    if (0 <= index[i] && index[i] < images) continue;
    throw std::out_of_range("rows: expected 0 <= row < " + std::to_string(images) + ", got " + std::to_string(index[i]));
  }
}

std::tuple<Tensor, Tensor> take_pixels(const Tensor& images, const Tensor& rows_in, const std::optional<Tensor>& key_in,
                                       int64_t row_offset) {
  STD_TORCH_CHECK(images.dim() == 2 && images.scalar_type() == ScalarType::Byte, "images: expected uint8 [N, D]");
  STD_TORCH_CHECK(rows_in.dim() == 1 && rows_in.scalar_type() == ScalarType::Long, "rows: expected int64 [B]");
  check(rows_in, images, "rows");
  const Tensor rows = rows_in.is_contiguous() ? rows_in : torch::stable::contiguous(rows_in);
  std::optional<Tensor> key;
  if (key_in.has_value()) key = key_of(*key_in, images);
  Images in(images, rows.size(0), row_offset);
  const Tensor x = empty({in.call.rows, in.call.dim}, ScalarType::Float, images);
  in.call.index = static_cast<const int64_t*>(rows.data_ptr());
  in.call.key = key.has_value() ? static_cast<const int64_t*>(key->data_ptr()) : nullptr;
  in.call.x = static_cast<float*>(x.data_ptr());
  if (images.is_cpu()) check_indices(in.call.index, in.call.rows, in.call.images);
  // A copy is at most an eighth of the work that kGrain was measured with.
  run(images, in.call, key.has_value() ? in.call.dim : in.call.dim / 8);
  return {in.pixels, x};
}

template <class Library>
void register_kernels(Library& m) {
  m.impl("binarize", TORCH_BOX(&binarize));
  m.impl("take_pixels", TORCH_BOX(&take_pixels));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vae_ext, m) {
  m.def("binarize(Tensor pixels, Tensor key, *, int row_offset=0) -> Tensor");
  m.def("take_pixels(Tensor images, Tensor rows, Tensor? key=None, *, int row_offset=0) -> (Tensor, Tensor)");
}

VAE_REGISTER(register_kernels)

}  // namespace vae
