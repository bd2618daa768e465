// Decoding, one element at a time: the reference for every kernel.
#include "quant/elements.h"

#include <cstring>

#include "base/error.h"
#include "base/float16.h"
#include "quant/affine.h"
#include "quant/float_codes.h"

namespace bumblebee {
namespace {

template <class T>
void decode_dense(const HostWeight& weight, std::span<const std::byte> row, std::span<T> values) {
  for (int i = 0; i < weight.in; ++i) values[size_t(i)] = T(load_float(row, weight.format.scale, size_t(i)));
}

template <class T>
void decode_affine(const HostWeight& weight, std::span<const std::byte> row, int r, std::span<T> values) {
  const int group = weight.format.group;
  const size_t groups = size_t(weight.in / group);
  uint8_t codes[128];
  for (size_t g = 0; g < groups; ++g) {
    const T scale = T(load_float(weight.scales, weight.format.scale, size_t(r) * groups + g));
    const T bias = T(load_float(weight.biases, weight.format.bias, size_t(r) * groups + g));
    unpack_codes(row, weight.format.bits, int(g) * group, std::span<uint8_t>(codes, size_t(group)));
    for (int i = 0; i < group; ++i) values[g * size_t(group) + size_t(i)] = scale * T(codes[i]) + bias;
  }
}

template <class T>
void decode_floats(const HostWeight& weight, std::span<const std::byte> row, int r, std::span<T> values) {
  const int group = weight.format.group;
  const size_t groups = size_t(weight.in / group);
  const T factor = T(factor_of(weight));
  const bool four = weight.format.codes == Format::Codes::e2m1;
  uint8_t codes[32];
  for (size_t g = 0; g < groups; ++g) {
    T scale = T(load_float(weight.scales, weight.format.scale, size_t(r) * groups + g));
    if (!weight.factors.empty()) scale *= factor;
    unpack_codes(row, weight.format.bits, int(g) * group, std::span<uint8_t>(codes, size_t(group)));
    for (int i = 0; i < group; ++i)
      values[g * size_t(group) + size_t(i)] = T(four ? decode_e2m1(codes[i]) : decode_e4m3(codes[i])) * scale;
  }
}

}  // namespace

float load_float(std::span<const std::byte> bytes, DType dtype, size_t i) {
  const std::byte* at = bytes.data() + i * size_t(size_of(dtype));
  if (dtype == DType::f8_e8m0) return decode_e8m0(uint8_t(*at));
  if (dtype == DType::f8_e4m3) return decode_e4m3(uint8_t(*at));
  if (dtype == DType::f32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

void store_float(std::span<std::byte> bytes, DType dtype, size_t i, float value) {
  std::byte* at = bytes.data() + i * size_t(size_of(dtype));
  if (dtype == DType::f32) {
    std::memcpy(at, &value, sizeof value);
    return;
  }
  const uint16_t bits = dtype == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
  std::memcpy(at, &bits, sizeof bits);
}

template <class T>
void decode_row(const HostWeight& weight, int row, std::span<T> values) {
  BB_CHECK(row >= 0 && row < weight.out && values.size() == size_t(weight.in));
  const size_t bytes = row_bytes(weight.format, weight.in);
  const std::span<const std::byte> codes = weight.codes.subspan(size_t(row) * bytes, bytes);
  if (weight.format.kind == Format::Kind::dense) return decode_dense(weight, codes, values);
  if (weight.format.codes != Format::Codes::uint) return decode_floats(weight, codes, row, values);
  decode_affine(weight, codes, row, values);
}

template void decode_row<float>(const HostWeight&, int, std::span<float>);
template void decode_row<double>(const HostWeight&, int, std::span<double>);

}  // namespace bumblebee
