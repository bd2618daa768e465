// The mathematics of a stored weight matrix, apart from the bytes of a file (io) and the layout a kernel wants (backend
// pack).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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
  uint16_t group = 0;        // affine: 16, 32, 64 or 128 consecutive inputs share a scale and a bias
  Codes codes = Codes::uint;
  bool biased = true;  // affine: false where no group has a bias, as with float codes

  static Format dense(DType element) { return {Kind::dense, element, element, 0, 0, Codes::uint, true}; }
  static Format affine(int bits, int group, DType scale, DType bias) {
    return {Kind::affine, scale, bias, uint8_t(bits), uint16_t(group), Codes::uint, true};
  }
  /// Float codes in the three combinations that exist.
  static Format mxfp4() { return floats(Codes::e2m1, 4, 32, DType::f8_e8m0); }
  static Format mxfp8() { return floats(Codes::e4m3, 8, 32, DType::f8_e8m0); }
  static Format nvfp4() { return floats(Codes::e2m1, 4, 16, DType::f8_e4m3); }
  static Format floats(Codes codes, int bits, int group, DType scale) {
    return {Kind::affine, scale, scale, uint8_t(bits), uint16_t(group), codes, false};
  }
  friend bool operator==(const Format&, const Format&) = default;
};

/// MLX's word for a kind of quantization.
enum class QuantMode : uint8_t { affine, mxfp4, mxfp8, nvfp4 };
std::string_view to_string(QuantMode mode);
std::optional<QuantMode> quant_mode_from_string(std::string_view name);

/// How a matrix is or is to be quantized, apart from the types of scales.
struct QuantSpec {
  int bits = 4, group = 64;
  QuantMode mode = QuantMode::affine;
  /// The default of a mode, and of float codes the only one.
  static QuantSpec of(QuantMode mode);
  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};
/// "4-bit group 64" or "mxfp4".
std::string to_string(const QuantSpec& spec);
/// `storage`: the type of affine scales and biases.
Format format_of(const QuantSpec& spec, DType storage);
/// Of a quantized format.
QuantSpec spec_of(const Format& format);

/// Whether it is dense or affine with unsigned codes and biases: what every backend has.
inline bool plain_format(const Format& f) { return f.codes == Format::Codes::uint && f.biased; }

/// "bf16", "affine 4-bit group 64 (bf16)", or "mxfp4" and its like.
std::string to_string(const Format& format);

/// Canonical bytes of one matrix [out, in], usually inside a mapped file, which `keep` holds alive. No alignment is
/// promised.
///  dense:  codes = elements [out, in]
///  affine: codes = [out, in·bits/8] bytes, a little-endian bit stream per row, low bits first; scales, biases [out,
///  in/group], no biases with float codes
struct HostWeight {
  Format format;
  int out = 0, in = 0;
  std::span<const std::byte> codes, scales, biases;
  std::string name;                            // module path, for messages
  std::shared_ptr<const void> keep;            // owner of the bytes
  int experts = 1;                             // matrices of this size, one after the other
  int stack_rows = 0;                          // rows from matrix to matrix of a stack, more than `out`; 0: `out`
  size_t codes_stride = 0, scales_stride = 0;  // bytes from row to row (biases as scales); 0: rows follow each other
  /// nvfp4: what all scales of each matrix are multiplied by; empty: 1. MLX's global scale is kGlobalUnit times that.
  std::vector<float> factors = {};
};
/// The largest e4m3 times the largest e2m1: with a global scale that is a matrix's largest magnitude, the largest
/// scale of a group is 448.
inline constexpr float kGlobalUnit = 448.0f * 6.0f;
/// Of one matrix.
inline float factor_of(const HostWeight& weight) { return weight.factors.empty() ? 1.0f : weight.factors[0]; }

/// Bytes of codes in one row.
inline size_t row_bytes(const Format& format, int in) {
  return format.kind == Format::Kind::dense ? size_t(in) * size_t(size_of(format.scale)) : size_t(in) * format.bits / 8;
}

/// The matrix of one expert of a stack.
inline HostWeight expert_of(const HostWeight& stack, int expert) {
  HostWeight one = stack;
  const size_t rows = size_t(stack.stack_rows != 0 ? stack.stack_rows : stack.out);
  const size_t groups = stack.format.group != 0 ? size_t(stack.in / stack.format.group) : 0;
  const auto part = [&](std::span<const std::byte> all, size_t stride, size_t row) {
    if (all.empty()) return all;
    if (stride == 0) stride = row;
    const size_t first = size_t(expert) * rows * stride;
    return all.subspan(first, std::min(size_t(stack.out) * stride, all.size() - first));
  };
  one.experts = 1;
  one.stack_rows = 0;
  one.codes = part(stack.codes, stack.codes_stride, row_bytes(stack.format, stack.in));
  one.scales = part(stack.scales, stack.scales_stride, groups * size_t(size_of(stack.format.scale)));
  one.biases = part(stack.biases, stack.scales_stride, groups * size_t(size_of(stack.format.bias)));
  if (!stack.factors.empty()) one.factors = {stack.factors[size_t(expert)]};
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

/// The same matrix with rows that follow each other, copied where they do not.
HostWeight contiguous(const HostWeight& weight);

/// Throws Error(unsupported) for what the types can say and `backend` cannot compute with: strides, stacks of experts,
/// float codes, groups without a bias.
void require_plain(std::string_view backend, const HostWeight& weight);
/// The same for a backend that has the float codes, and rows with strides.
void require_known(std::string_view backend, const HostWeight& weight);
/// Whether it is dense, affine with unsigned codes and biases, or one of the three with float codes.
bool known_format(const Format& format);

}  // namespace bumblebee
