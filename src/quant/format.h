// The mathematics of a stored weight matrix, apart from the bytes of a file (io) and the layout a kernel wants (backend
// pack).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "tensor/dtype.h"

namespace bumblebee {

/// How numbers are stored. Formats and packing: docs/formats.md; the source is MLX's quantization (mlx/ops.cpp).
struct Format {
  enum class Kind : uint8_t { dense, affine };
  /// What a code stands for before scale and bias: itself, or a small float (OCP microscaling).
  enum class Codes : uint8_t { uint, e2m1, e4m3 };
  Kind kind = Kind::dense;
  DType scale = DType::f32;  // affine: type of the scales; dense: the element type
  DType bias = DType::f32;   // affine: type of the biases
  uint8_t bits = 0;          // affine: 2, 3, 4, 5, 6 or 8
  uint16_t group = 0;        // affine: 32, 64 or 128 consecutive inputs share a scale and a bias
  Codes codes = Codes::uint;
  bool biased = true;  // affine: false where no group has a bias, as with float codes

  static Format dense(DType element) { return {Kind::dense, element, element, 0, 0, Codes::uint, true}; }
  static Format affine(int bits, int group, DType scale, DType bias) {
    return {Kind::affine, scale, bias, uint8_t(bits), uint16_t(group), Codes::uint, true};
  }
  friend bool operator==(const Format&, const Format&) = default;
};

/// Whether it is dense or affine with unsigned codes and biases: what every backend has.
inline bool plain_format(const Format& f) { return f.codes == Format::Codes::uint && f.biased; }

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
  std::string name;                            // module path, for messages
  std::shared_ptr<const void> keep;            // owner of the bytes
  int experts = 1;                             // matrices of this size, one after the other
  size_t codes_stride = 0, scales_stride = 0;  // bytes from row to row (biases as scales); 0: rows follow each other
};

/// The matrix of one expert of a stack.
inline HostWeight expert_of(const HostWeight& stack, int expert) {
  HostWeight one = stack;
  const auto part = [&](std::span<const std::byte> all) {
    const size_t size = all.size() / size_t(stack.experts);
    return all.subspan(size_t(expert) * size, size);
  };
  one.experts = 1;
  one.codes = part(stack.codes);
  one.scales = part(stack.scales);
  one.biases = part(stack.biases);
  return one;
}

/// Rows [first, first + count) of a matrix.
inline HostWeight rows_of(const HostWeight& matrix, int first, int count) {
  HostWeight some = matrix;
  const auto part = [&](std::span<const std::byte> all) {
    const size_t size = all.size() / size_t(matrix.out);
    return all.subspan(size_t(first) * size, size_t(count) * size);
  };
  some.out = count;
  some.codes = part(matrix.codes);
  some.scales = part(matrix.scales);
  some.biases = part(matrix.biases);
  return some;
}

/// Bytes that a matrix takes as it is stored.
inline uint64_t stored_bytes(const HostWeight& w) { return w.codes.size() + w.scales.size() + w.biases.size(); }

/// Throws Error(unsupported) for what the types can say and `backend` cannot compute with: strides, stacks of experts,
/// float codes, groups without a bias.
void require_plain(std::string_view backend, const HostWeight& weight);

/// Bytes of codes in one row.
inline size_t row_bytes(const Format& format, int in) {
  return format.kind == Format::Kind::dense ? size_t(in) * size_t(size_of(format.scale)) : size_t(in) * format.bits / 8;
}

}  // namespace bumblebee
