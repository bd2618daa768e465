// Parts of a matrix follow each other at multiples of 256 bytes, in one allocation.
#include "backend/cuda/weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <mutex>
#include <utility>

#include "backend/cuda/kernels/matmul_wide.h"
#include "base/float16.h"
#include "quant/elements.h"

namespace bumblebee::cuda {
namespace {

constexpr size_t kAlignment = 256;
size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Scales of one byte, as bf16: powers of two and e4m3 have at most four bits of mantissa.
std::vector<std::byte> widened(std::span<const std::byte> scales, DType dtype) {
  std::array<uint16_t, 256> table;
  for (size_t i = 0; i < table.size(); ++i) {
    const std::byte byte{uint8_t(i)};
    table[i] = f32_to_bf16(load_float({&byte, 1}, dtype, 0));
  }
  std::vector<std::byte> bytes(2 * scales.size());
  for (size_t i = 0; i < scales.size(); ++i) std::memcpy(&bytes[2 * i], &table[size_t(scales[i])], 2);
  return bytes;
}

Element element_of(DType dtype) {
  if (dtype == DType::f8_e8m0 || dtype == DType::f8_e4m3) return Element::bf16;  // widened()
  BB_CHECK(is_float(dtype), to_string(dtype));
  return dtype == DType::f32 ? Element::f32 : dtype == DType::f16 ? Element::f16 : Element::bf16;
}

Code code_of(const Format& f) {
  return f.codes == Format::Codes::uint ? Code::uint : f.codes == Format::Codes::e2m1 ? Code::e2m1 : Code::e4m3;
}

/// Bytes of values in the factors' type.
std::vector<std::byte> stored(std::span<const float> values, Element element) {
  std::vector<std::byte> bytes(values.size() * (element == Element::bf16 ? 2 : 4));
  if (element == Element::f32) {
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t rounded = f32_to_bf16(values[i]);
    std::memcpy(bytes.data() + 2 * i, &rounded, 2);
  }
  return bytes;
}

/// m [rows, cols] with rows of padded_rank(cols), zeros at their ends.
std::vector<float> padded(std::span<const float> m, size_t rows, size_t cols) {
  const size_t pitch = size_t(padded_rank(int(cols)));
  std::vector<float> result(rows * pitch);
  for (size_t r = 0; r < rows; ++r)
    std::copy_n(m.begin() + ptrdiff_t(r * cols), cols, result.begin() + ptrdiff_t(r * pitch));
  return result;
}

/// [cols, rows] of m [rows, cols]
std::vector<float> transposed(std::span<const float> m, size_t rows, size_t cols) {
  std::vector<float> result(m.size());
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) result[c * rows + r] = m[r * cols + c];
  }
  return result;
}

size_t unit_bytes(const Format& f, int out) { return f.kind == Format::Kind::dense ? 0 : size_t(out) * sizeof(float); }
/// Of weights whose products have them, once the rest is there.
void make_units(const Device& device, WeightView& view, int experts, std::byte* to) {
  device.use();
  view.units = nullptr;
  if (!wants_units(view, experts)) return;
  float* const units = reinterpret_cast<float*>(to);
  const std::lock_guard lock(device.recording());
  fill_units(view, experts * view.out, units, device.compute());
  view.units = units;
}

}  // namespace

Weight upload_weight(const std::shared_ptr<const Device>& device, Uploader& uploader, const HostWeight& host,
                     const ByteCounter& counter) {
  require_known("cuda", host);
  const HostWeight weight = contiguous(host);
  const Format& f = weight.format;
  std::vector<std::byte> wide;
  if (code_of(f) != Code::uint) wide = widened(weight.scales, f.scale);
  const std::span<const std::byte> scales = wide.empty() ? weight.scales : std::span<const std::byte>(wide),
                                   factors = std::as_bytes(std::span(weight.factors));
  const size_t scales_at = aligned(weight.codes.size()), biases_at = scales_at + aligned(scales.size()),
               factors_at = biases_at + aligned(weight.biases.size());
  auto packed = std::make_shared<CudaWeight>();
  const size_t units_at = factors_at + aligned(factors.size());
  packed->bytes = DeviceBytes(device, units_at + aligned(unit_bytes(weight.format, weight.out)), counter);
  std::byte* const at = packed->bytes.data();
  uploader.copy(weight.codes, at);
  uploader.copy(scales, at + scales_at);
  uploader.copy(weight.biases, at + biases_at);
  uploader.copy(factors, at + factors_at);
  packed->view = {.codes = reinterpret_cast<const uint8_t*>(at),
                  .scales = at + scales_at,
                  .biases = at + biases_at,
                  .row_bytes = row_bytes(f, weight.in),
                  .out = weight.out,
                  .in = weight.in,
                  .bits = f.kind == Format::Kind::dense ? 0 : int32_t(f.bits),
                  .group = int32_t(f.group),
                  .scale_row = f.kind == Format::Kind::dense ? 0 : int32_t(weight.in / int(f.group)),
                  .scale = element_of(f.scale),
                  .bias = element_of(f.bias),
                  .code = code_of(f),
                  .factors = factors.empty() ? nullptr : reinterpret_cast<const float*>(at + factors_at)};
  make_units(*device, packed->view, 1, at + units_at);
  return {f, weight.out, weight.in, std::move(packed)};
}

Weight stack_weights(const std::shared_ptr<const Device>& device, std::span<const Weight> experts,
                     const ByteCounter& counter) {
  const WeightView& one = view_of(experts.front());
  const Format& f = experts.front().format;
  const size_t count = experts.size(), out = size_t(one.out), codes = out * one.row_bytes;
  // Tensor copies want rows at multiples of 16 bytes, and those of one length for scales and biases.
  const bool floats = one.code != Code::uint;  // without biases
  const size_t scale = floats ? 2 : size_t(size_of(f.scale)), bias = floats ? scale : size_t(size_of(f.bias));
  const size_t unit = 16 / std::min(scale, bias);
  const size_t groups = one.bits == 0 ? 0 : size_t(one.in / one.group), pitch = (groups + unit - 1) / unit * unit;
  const size_t scales_at = aligned(count * codes), biases_at = scales_at + aligned(count * out * pitch * scale);
  auto packed = std::make_shared<CudaWeight>();
  const size_t factors_at = biases_at + (floats ? 0 : aligned(count * out * pitch * bias));
  // As the first has it, or none has one.
  const size_t units_at = factors_at + (one.factors != nullptr ? aligned(count * sizeof(float)) : 0);
  packed->bytes = DeviceBytes(device, units_at + aligned(count * unit_bytes(f, one.out)), counter);
  std::byte* const at = packed->bytes.data();
  device->use();
  const cudaStream_t stream = device->upload();
  check(cudaMemsetAsync(at + scales_at, 0, packed->bytes.size() - scales_at, stream), "stack experts");
  const auto copy_rows = [&](size_t to, const void* from, size_t size) {
    if (groups == 0 || out == 0) return;
    check(cudaMemcpy2DAsync(at + to, pitch * size, from, groups * size, groups * size, out, cudaMemcpyDeviceToDevice,
                            stream),
          "stack experts");
  };
  for (size_t e = 0; e < count; ++e) {
    const WeightView& expert = view_of(experts[e]);
    BB_CHECK(experts[e].format == f && expert.out == one.out && expert.in == one.in, "expert ", e);
    check(cudaMemcpyAsync(at + e * codes, expert.codes, codes, cudaMemcpyDeviceToDevice, stream), "stack experts");
    copy_rows(scales_at + e * out * pitch * scale, expert.scales, scale);
    if (!floats) copy_rows(biases_at + e * out * pitch * bias, expert.biases, bias);
    BB_CHECK((expert.factors != nullptr) == (one.factors != nullptr), "expert ", e);
    if (one.factors == nullptr) continue;
    check(cudaMemcpyAsync(at + factors_at + e * sizeof(float), expert.factors, sizeof(float), cudaMemcpyDeviceToDevice,
                          stream),
          "stack experts");
  }
  check(cudaStreamSynchronize(device->upload()), "stack experts");  // those who gave them may free them
  packed->view = one;
  packed->view.codes = reinterpret_cast<const uint8_t*>(at);
  packed->view.scales = at + scales_at;
  packed->view.biases = at + biases_at;
  packed->view.scale_row = int32_t(pitch);
  if (one.factors != nullptr) packed->view.factors = reinterpret_cast<const float*>(at + factors_at);
  make_units(*device, packed->view, int(count), at + units_at);
  return {f, one.out, one.in, std::move(packed), int(count)};
}

LowRankWeights upload_factors(const std::shared_ptr<const Device>& device, Uploader& uploader, const HostLowRank& f,
                              LowRankUse use, bool fast, const ByteCounter& counter) {
  const size_t rank = size_t(f.rank), in = size_t(f.in), out = size_t(f.out);
  BB_CHECK(f.a.size() == rank * in && f.b.size() == out * rank && (f.bias.empty() || f.bias.size() == out));
  const Element element = fast ? Element::bf16 : Element::f32;
  const std::vector<std::byte> a =
      use == LowRankUse::linear ? stored(f.a, element) : stored(transposed(f.a, rank, in), element);
  const std::vector<std::byte> b = stored(padded(f.b, out, rank), element);
  const std::span<const std::byte> bias = std::as_bytes(f.bias);
  const size_t b_at = aligned(a.size()), bias_at = b_at + aligned(b.size());
  auto packed = std::make_shared<CudaLowRank>();
  packed->memory = DeviceBytes(device, bias_at + aligned(bias.size()), counter);
  std::byte* const at = packed->memory.data();
  uploader.copy(a, at);
  uploader.copy(b, at + b_at);
  uploader.copy(bias, at + bias_at);
  packed->view = {.a = at,
                  .b = at + b_at,
                  .bias = bias.empty() ? nullptr : reinterpret_cast<const float*>(at + bias_at),
                  .rank = f.rank,
                  .element = element};
  return {f.rank, f.in, f.out, std::move(packed)};
}

}  // namespace bumblebee::cuda
