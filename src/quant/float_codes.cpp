// Decoding by tables and bits; quantizing in the order, and with the roundings, of MLX.
#include "quant/float_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "quant/elements.h"

namespace bumblebee {
namespace {

constexpr float kE2m1[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

float rounded(float value, DType dtype) {
  std::byte bytes[4];
  store_float(bytes, dtype, 0, value);
  return load_float(bytes, dtype, 0);
}

/// The first of the nearest codes in the order 0, 0.5, ..., 6, -0, -0.5, ...; where none is near, as of NaN, code 0.
uint8_t encode_e2m1(float value) {
  uint8_t best = 0;
  float nearest = INFINITY;
  for (uint8_t code = 0; code < 16; ++code) {
    const float distance = std::abs(value - decode_e2m1(code));
    if (distance < nearest) {
      nearest = distance;
      best = code;
    }
  }
  return best;
}

struct GroupScale {
  uint8_t stored;
  float value;
};

/// `largest` is what the group's largest magnitude would be if codes went up to one.
GroupScale group_scale(float largest, DType scale) {
  if (scale == DType::f8_e4m3) {
    const uint8_t stored = encode_e4m3(largest);
    return {stored, decode_e4m3(stored)};
  }
  // A group of zeros has the scale 1.
  const float exponent = largest == 0 ? 0 : std::clamp(std::ceil(std::log2(largest)), -127.0f, 127.0f);
  const uint8_t stored = uint8_t(int(exponent) + 127);
  return {stored, decode_e8m0(stored)};
}

}  // namespace

float decode_e2m1(uint8_t code) { return code & 8 ? -kE2m1[code & 7] : kE2m1[code & 7]; }

float decode_e4m3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const float magnitude =
      exponent == 0 ? std::ldexp(float(mantissa), -9) : std::ldexp(float(8 + mantissa), exponent - 10);
  return code & 128 ? -magnitude : magnitude;
}

uint8_t encode_e4m3(float value) {
  const uint8_t sign = std::signbit(value) ? 128 : 0;
  const float magnitude = std::min(std::abs(value), 448.0f);
  if (!(magnitude > 0)) return sign;
  // Steps are 2^-9 below 2^-6, and an eighth of the power of two above. What rounds up to the next power is its code.
  const int exponent = std::max(std::ilogb(magnitude), -6);
  const int steps = int(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
  return uint8_t(sign | ((exponent + 6) * 8 + steps));
}

float decode_e8m0(uint8_t byte) {
  const uint32_t bits = byte == 0 ? 0x00400000u : uint32_t{byte} << 23;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

QuantizedMatrix quantize_floats(std::span<const float> weights, int out, int in, const Format& format, DType storage) {
  BB_CHECK(known_format(format) && format.codes != Format::Codes::uint);
  BB_CHECK(weights.size() == size_t(out) * size_t(in) && is_float(storage));
  const size_t group = format.group;
  if (size_t(in) % group != 0) {
    throw Error(ErrorCode::bad_config, "quantize",
                cat("columns: expected a multiple of the group size ", group, ", got ", in));
  }
  const bool four = format.bits == 4;
  const float most = four ? 6.0f : 448.0f;
  QuantizedMatrix q;
  q.codes.resize(weights.size() * format.bits / 8);
  q.scales.resize(weights.size() / group);
  std::vector<uint8_t> codes(group);
  for (size_t g = 0; g < q.scales.size(); ++g) {
    const std::span<const float> w = weights.subspan(g * group, group);
    float largest = 0;
    for (const float value : w) {
      if (!std::isfinite(value)) {
        throw Error(ErrorCode::bad_file, "quantize",
                    cat("weight in row ", g * group / size_t(in), ": expected a finite number, got NaN or infinity"));
      }
      largest = std::max(largest, std::abs(value));
    }
    const GroupScale scale = group_scale(rounded(largest / most, storage), format.scale);
    q.scales[g] = std::byte{scale.stored};
    for (size_t i = 0; i < group; ++i) {
      const float code = rounded(w[i] / scale.value, storage);
      codes[i] = four ? encode_e2m1(code) : encode_e4m3(code);
    }
    pack_codes(codes, format.bits, std::span(q.codes).subspan(g * group * format.bits / 8, group * format.bits / 8));
  }
  return q;
}

QuantizedMatrix quantize_as(const QuantSpec& spec, std::span<const float> weights, int out, int in, DType storage,
                            AffineVariant variant) {
  if (spec.mode == QuantMode::affine) return quantize_affine(weights, out, in, spec.bits, spec.group, storage, variant);
  return quantize_floats(weights, out, in, format_of(spec, storage), storage);
}

}  // namespace bumblebee
