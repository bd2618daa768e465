// The mathematics of a stored weight matrix, apart from the bytes of a file (io) and the layout a kernel wants (backend
// pack).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "tensor/dtype.h"

namespace bumblebee {

/// How numbers are stored. Formats and packing: docs/formats.md; the source is MLX's quantization (mlx/ops.cpp).
struct Format {
  enum class Kind : uint8_t { dense, affine };
  Kind kind = Kind::dense;
  DType scale = DType::f32;  // affine: type of the scales; dense: the element type
  DType bias = DType::f32;   // affine: type of the biases
  uint8_t bits = 0;          // affine: 2, 3, 4, 5, 6 or 8
  uint16_t group = 0;        // affine: 32, 64 or 128 consecutive inputs share a scale and a bias

  static Format dense(DType element) { return {Kind::dense, element, element, 0, 0}; }
  static Format affine(int bits, int group, DType scale, DType bias) {
    return {Kind::affine, scale, bias, uint8_t(bits), uint16_t(group)};
  }
  friend bool operator==(const Format&, const Format&) = default;
};

/// "bf16" or "affine 4-bit group 64 (bf16)".
std::string to_string(const Format& format);

/// Canonical bytes of one matrix [out, in], usually inside a mapped file, which `keep` holds alive. No alignment is
/// promised.
///  dense:  codes = elements [out, in]
///  affine: codes = [out, in·bits/8] bytes, a little-endian bit stream per row, low bits first; scales, biases [out,
///  in/group]
struct HostWeight {
  Format format;
  int out = 0, in = 0;
  std::span<const std::byte> codes, scales, biases;
  std::string name;                  // module path, for messages
  std::shared_ptr<const void> keep;  // owner of the bytes
};

/// Bytes of codes in one row.
inline size_t row_bytes(const Format& format, int in) {
  return format.kind == Format::Kind::dense ? size_t(in) * size_t(size_of(format.scale)) : size_t(in) * format.bits / 8;
}

}  // namespace bumblebee
