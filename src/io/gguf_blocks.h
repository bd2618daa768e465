// The block formats of GGUF tensors: sizes, names, and decoding to f32 with the operations of ggml's own reference, in
// its order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace bumblebee {

/// Numbers are the file's.
enum class GgufType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30
};

struct GgufBlock {
  int elements = 1, bytes = 0;
};

/// Elements and bytes of a block; empty for a type that this reader does not decode.
std::optional<GgufBlock> gguf_block(GgufType type);

/// "Q4_K": also for types that are not decoded; "type 99" for unknown numbers.
std::string gguf_type_name(GgufType type);

/// True for f32, f16 and bf16.
constexpr bool is_dense(GgufType type) {
  return type == GgufType::f32 || type == GgufType::f16 || type == GgufType::bf16;
}

/// Decodes whole blocks; `bytes` and `values` must fit each other. The type must be one that gguf_block() knows.
void decode_gguf(GgufType type, std::span<const std::byte> bytes, std::span<float> values);

/// A block format that is an affine grid, code times scale plus bias over 32 consecutive elements: Q4_0, Q4_1, Q5_0,
/// Q5_1, Q8_0.
struct GgufAffine {
  int bits = 0;
  int zero = 0;  // the code that means 0; formats with a minimum of their own have has_minimum instead
  bool has_minimum = false;
};
std::optional<GgufAffine> gguf_affine(GgufType type);

/// One block of 32 as codes (in element order: ggml keeps elements j and j + 16 in one byte), scale and bias in f32,
/// both exact.
struct GgufGroup {
  uint8_t codes[32];
  float scale, bias;
};
GgufGroup split_gguf_block(GgufType type, const std::byte* block);

}  // namespace bumblebee
