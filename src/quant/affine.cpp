// Packing and both of MLX's quantizers, one group at a time, in the arithmetic (f32) and the order that MLX uses.
#include "quant/affine.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "quant/elements.h"

namespace bumblebee {
namespace {

float round_half(float value, AffineVariant variant) {
  return variant == AffineVariant::cpu ? std::nearbyint(value) : std::round(value);
}

struct GroupParameters {
  float scale, bias;
};

/// The scale's sign is chosen so that the entry of largest magnitude is code 0 and exact; zero then falls on a code,
/// nearly.
GroupParameters group_parameters(std::span<const float> w, int bits, AffineVariant variant) {
  const auto [low, high] = std::minmax_element(w.begin(), w.end());
  const float lowest = *low;
  const float highest = variant == AffineVariant::gpu ? std::max(0.0f, *high) : *high;
  const float top = float((1 << bits) - 1);
  float scale = std::max((highest - lowest) / top, 1e-7f);
  const bool low_side = std::abs(lowest) > std::abs(highest);
  scale = low_side ? scale : -scale;
  const float edge = low_side ? lowest : highest;
  const float steps = round_half(edge / scale, variant);
  if (steps == 0) return {scale, 0.0f};
  return {edge / steps, edge};
}

}  // namespace

bool affine_bits_ok(int bits) { return bits >= 2 && bits <= 8 && bits != 7; }
bool affine_group_ok(int group) { return group == 32 || group == 64 || group == 128; }

void pack_codes(std::span<const uint8_t> codes, int bits, std::span<std::byte> packed) {
  BB_CHECK(codes.size() % 16 == 0 && packed.size() == codes.size() * size_t(bits) / 8);
  uint64_t window = 0;  // bits not yet written, lowest first
  int held = 0;
  size_t at = 0;
  for (uint8_t code : codes) {
    window |= uint64_t{code} << held;
    for (held += bits; held >= 8; held -= 8, window >>= 8) packed[at++] = std::byte(window & 0xff);
  }
}

void unpack_codes(std::span<const std::byte> packed, int bits, int first, std::span<uint8_t> codes) {
  BB_DCHECK(first * bits % 8 == 0);
  const std::byte* next = packed.data() + size_t(first) * size_t(bits) / 8;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  uint64_t window = 0;
  int held = 0;
  for (uint8_t& code : codes) {
    for (; held < bits; held += 8) window |= uint64_t(*next++) << held;
    code = uint8_t(window & mask);
    window >>= bits;
    held -= bits;
  }
}

QuantizedMatrix quantize_affine(std::span<const float> weights, int out, int in, int bits, int group, DType storage,
                                AffineVariant variant) {
  if (!affine_bits_ok(bits))
    throw Error(ErrorCode::bad_config, "quantize", cat("bits: expected 2, 3, 4, 5, 6 or 8, got ", bits));
  if (!affine_group_ok(group))
    throw Error(ErrorCode::bad_config, "quantize", cat("group size: expected 32, 64 or 128, got ", group));
  if (in % group != 0)
    throw Error(ErrorCode::bad_config, "quantize",
                cat("columns: expected a multiple of the group size ", group, ", got ", in));
  BB_CHECK(weights.size() == size_t(out) * size_t(in) && is_float(storage));

  const size_t groups = size_t(out) * size_t(in / group);
  const size_t group_bytes = size_t(group) * size_t(bits) / 8;
  QuantizedMatrix q;
  q.codes.resize(groups * group_bytes);
  q.scales.resize(groups * size_t(size_of(storage)));
  q.biases.resize(groups * size_t(size_of(storage)));
  uint8_t codes[128];
  for (size_t g = 0; g < groups; ++g) {
    const std::span<const float> w = weights.subspan(g * size_t(group), size_t(group));
    if (!std::all_of(w.begin(), w.end(), [](float v) { return std::isfinite(v); })) {
      throw Error(ErrorCode::bad_file, "quantize",
                  cat("weight in row ", g / size_t(in / group), ": expected a finite number, got NaN or infinity"));
    }
    const GroupParameters p = group_parameters(w, bits, variant);
    for (int i = 0; i < group; ++i) {
      const float code = round_half((w[size_t(i)] - p.bias) / p.scale, variant);
      codes[i] = uint8_t(std::clamp(code, 0.0f, float((1 << bits) - 1)));
    }
    pack_codes(std::span<const uint8_t>(codes, size_t(group)), bits,
               std::span(q.codes).subspan(g * group_bytes, group_bytes));
    store_float(q.scales, storage, g, p.scale);
    store_float(q.biases, storage, g, p.bias);
  }
  return q;
}

}  // namespace bumblebee
