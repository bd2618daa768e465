// One function per block format. Layouts: ggml-common.h and dequantize_row_* of ggml-quants.c.
#include "io/gguf_blocks.h"

#include <cstring>

#include "base/error.h"
#include "base/float16.h"

namespace bumblebee {
namespace {

constexpr int kSuper = 256;  // elements of a K block
constexpr int8_t kNonLinear4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

uint16_t load_u16(const uint8_t* p) { return uint16_t(p[0] | p[1] << 8); }
uint32_t load_u32(const uint8_t* p) {
  return uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
}
float load_f16(const uint8_t* p) { return f16_to_f32(load_u16(p)); }

void split_nibbles(const uint8_t* packed, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = packed[j] & 15;
    codes[j + 16] = packed[j] >> 4;
  }
}

void add_fifth_bit(uint32_t high, uint8_t* codes) {
  for (int j = 0; j < 32; ++j) codes[j] = uint8_t(codes[j] | (high >> j & 1) << 4);
}

void decode_q2_k(const uint8_t* block, float* y) {
  const uint8_t *scales = block, *q = block + 16;
  const float d = load_f16(block + 80), least = load_f16(block + 82);
  for (int half = 0; half < 2; ++half, q += 32) {
    for (int shift = 0; shift < 8; shift += 2) {
      for (int part = 0; part < 32; part += 16, ++scales) {
        const float step = d * float(*scales & 15), minimum = least * float(*scales >> 4);
        for (int l = 0; l < 16; ++l) *y++ = step * float(q[part + l] >> shift & 3) - minimum;
      }
    }
  }
}

void decode_q3_k(const uint8_t* block, float* y) {
  const uint8_t *high = block, *q = block + 32, *packed = block + 96;
  const float d = load_f16(block + 108);
  int index = 0;
  uint8_t mask = 1;
  for (int half = 0; half < 2; ++half, q += 32) {
    for (int shift = 0; shift < 8; shift += 2, mask = uint8_t(mask << 1)) {
      for (int part = 0; part < 32; part += 16, ++index) {
        const int low = index < 8 ? packed[index] & 15 : packed[index - 8] >> 4;
        const int scale = low | (packed[8 + index % 4] >> (2 * (index / 4)) & 3) << 4;
        const float step = d * float(scale - 32);
        for (int l = 0; l < 16; ++l) *y++ = step * float((q[part + l] >> shift & 3) - (high[part + l] & mask ? 0 : 4));
      }
    }
  }
}

struct ScaleMin {
  int scale, minimum;
};

/// Entry `i` of the eight 6-bit (scale, minimum) pairs that Q4_K and Q5_K pack in 12 bytes.
ScaleMin scale_min(const uint8_t* packed, int i) {
  if (i < 4) return {packed[i] & 63, packed[i + 4] & 63};
  return {(packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4, packed[i + 4] >> 4 | (packed[i] >> 6) << 4};
}

void decode_q45_k(const uint8_t* block, bool five, float* y) {
  const float d = load_f16(block), least = load_f16(block + 2);
  const uint8_t *packed = block + 4, *high = block + 16, *q = five ? block + 48 : block + 16;
  for (int i = 0; i < 8; ++i) {
    const ScaleMin s = scale_min(packed, i);
    const float step = d * float(s.scale), minimum = least * float(s.minimum);
    for (int l = 0; l < 32; ++l) {
      int code = i % 2 == 0 ? q[l] & 15 : q[l] >> 4;
      if (five) code += (high[l] >> i & 1) * 16;
      *y++ = step * float(code) - minimum;
    }
    if (i % 2 == 1) q += 32;
  }
}

void decode_q6_k(const uint8_t* block, float* y) {
  const uint8_t *low = block, *high = block + 128;
  const auto* scales = reinterpret_cast<const int8_t*>(block + 192);
  const float d = load_f16(block + 208);
  for (int half = 0; half < 2; ++half, low += 64, high += 32, scales += 8) {
    for (int part = 0; part < 4; ++part) {
      for (int l = 0; l < 32; ++l) {
        const int nibble = part < 2 ? low[l + 32 * part] & 15 : low[l + 32 * (part - 2)] >> 4;
        const int code = (nibble | (high[l] >> (2 * part) & 3) << 4) - 32;
        *y++ = d * float(scales[2 * part + l / 16]) * float(code);
      }
    }
  }
}

void decode_iq4_nl(const uint8_t* packed, float step, float* y) {
  uint8_t codes[32];
  split_nibbles(packed, codes);
  for (int j = 0; j < 32; ++j) y[j] = step * float(kNonLinear4[codes[j]]);
}

void decode_iq4_xs(const uint8_t* block, float* y) {
  const float d = load_f16(block);
  const int high = load_u16(block + 2);
  for (int i = 0; i < 8; ++i) {
    const int scale = (block[4 + i / 2] >> (4 * (i % 2)) & 15) | (high >> (2 * i) & 3) << 4;
    decode_iq4_nl(block + 8 + 16 * i, d * float(scale - 32), y + 32 * i);
  }
}

/// ggml subtracts the zero code from the integer and multiplies once; formats with a minimum multiply and add.
void decode_group(GgufType type, const std::byte* block, float* y) {
  const GgufGroup group = split_gguf_block(type, block);
  const GgufAffine grid = *gguf_affine(type);
  for (int j = 0; j < 32; ++j) {
    y[j] = grid.has_minimum ? group.scale * float(group.codes[j]) + group.bias
                            : group.scale * float(int(group.codes[j]) - grid.zero);
  }
}

void decode_block(GgufType type, const std::byte* bytes, float* y) {
  const auto* block = reinterpret_cast<const uint8_t*>(bytes);
  switch (type) {
    case GgufType::f32: std::memcpy(y, block, 4); return;
    case GgufType::f16: *y = load_f16(block); return;
    case GgufType::bf16: *y = bf16_to_f32(load_u16(block)); return;
    case GgufType::q4_0:
    case GgufType::q4_1:
    case GgufType::q5_0:
    case GgufType::q5_1:
    case GgufType::q8_0: return decode_group(type, bytes, y);
    case GgufType::q2_k: return decode_q2_k(block, y);
    case GgufType::q3_k: return decode_q3_k(block, y);
    case GgufType::q4_k: return decode_q45_k(block, false, y);
    case GgufType::q5_k: return decode_q45_k(block, true, y);
    case GgufType::q6_k: return decode_q6_k(block, y);
    case GgufType::iq4_nl: return decode_iq4_nl(block + 2, load_f16(block), y);
    case GgufType::iq4_xs: return decode_iq4_xs(block, y);
  }
}

}  // namespace

std::optional<GgufBlock> gguf_block(GgufType type) {
  switch (type) {
    case GgufType::f32: return GgufBlock{1, 4};
    case GgufType::f16:
    case GgufType::bf16: return GgufBlock{1, 2};
    case GgufType::q4_0:
    case GgufType::iq4_nl: return GgufBlock{32, 18};
    case GgufType::q4_1: return GgufBlock{32, 20};
    case GgufType::q5_0: return GgufBlock{32, 22};
    case GgufType::q5_1: return GgufBlock{32, 24};
    case GgufType::q8_0: return GgufBlock{32, 34};
    case GgufType::q2_k: return GgufBlock{kSuper, 84};
    case GgufType::q3_k: return GgufBlock{kSuper, 110};
    case GgufType::q4_k: return GgufBlock{kSuper, 144};
    case GgufType::q5_k: return GgufBlock{kSuper, 176};
    case GgufType::q6_k: return GgufBlock{kSuper, 210};
    case GgufType::iq4_xs: return GgufBlock{kSuper, 136};
  }
  return std::nullopt;
}

std::string gguf_type_name(GgufType type) {
  static constexpr const char* kNames[] = {
      "F32",   "F16",    "Q4_0", "Q4_1", "Q4_2", "Q4_3",    "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
      "Q3_K",  "Q4_K",   "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
      "IQ2_S", "IQ4_XS", "I8",   "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16"};
  const auto number = uint32_t(type);
  if (number < std::size(kNames)) return kNames[number];
  if (number == 34) return "TQ1_0";
  if (number == 35) return "TQ2_0";
  if (number == 39) return "MXFP4";
  return cat("type ", number);
}

void decode_gguf(GgufType type, std::span<const std::byte> bytes, std::span<float> values) {
  const auto block = gguf_block(type);
  BB_CHECK(block, gguf_type_name(type));
  const size_t count = values.size() / size_t(block->elements);
  BB_CHECK(count * size_t(block->elements) == values.size() && count * size_t(block->bytes) == bytes.size(),
           values.size(), " ", bytes.size());
  for (size_t i = 0; i < count; ++i)
    decode_block(type, bytes.data() + i * size_t(block->bytes), values.data() + i * size_t(block->elements));
}

std::optional<GgufAffine> gguf_affine(GgufType type) {
  switch (type) {
    case GgufType::q4_0: return GgufAffine{4, 8, false};
    case GgufType::q4_1: return GgufAffine{4, 0, true};
    case GgufType::q5_0: return GgufAffine{5, 16, false};
    case GgufType::q5_1: return GgufAffine{5, 0, true};
    case GgufType::q8_0: return GgufAffine{8, 128, false};
    default: return std::nullopt;
  }
}

GgufGroup split_gguf_block(GgufType type, const std::byte* bytes) {
  const auto grid = gguf_affine(type);
  BB_CHECK(grid, gguf_type_name(type));
  const auto* block = reinterpret_cast<const uint8_t*>(bytes);
  GgufGroup group;
  group.scale = load_f16(block);
  block += 2;
  // A power of two times an f16 is exact in f32.
  group.bias = grid->has_minimum ? load_f16(block) : -float(grid->zero) * group.scale;
  if (grid->has_minimum) block += 2;
  if (grid->bits == 8) {
    for (int j = 0; j < 32; ++j) group.codes[j] = uint8_t(block[j] ^ 0x80);  // int8 plus 128
    return group;
  }
  const uint32_t high = grid->bits == 5 ? load_u32(block) : 0;
  if (grid->bits == 5) block += 4;
  split_nibbles(block, group.codes);
  if (grid->bits == 5) add_fifth_bit(high, group.codes);
  return group;
}

}  // namespace bumblebee
