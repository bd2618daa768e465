// Parts of a matrix follow each other at multiples of 256 bytes, in one allocation.
#include "backend/cuda/weights.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/float16.h"

namespace bumblebee::cuda {
namespace {

constexpr size_t kAlignment = 256;
size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Element element_of(DType dtype) {
  BB_CHECK(is_float(dtype), to_string(dtype));
  return dtype == DType::f32 ? Element::f32 : dtype == DType::f16 ? Element::f16 : Element::bf16;
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

}  // namespace

Weight upload_weight(const std::shared_ptr<const Device>& device, Uploader& uploader, const HostWeight& weight,
                     const ByteCounter& counter) {
  require_plain("cuda", weight);
  const Format& f = weight.format;
  const size_t scales_at = aligned(weight.codes.size()), biases_at = scales_at + aligned(weight.scales.size());
  auto packed = std::make_shared<CudaWeight>();
  packed->bytes = DeviceBytes(device, biases_at + aligned(weight.biases.size()), counter);
  std::byte* const at = packed->bytes.data();
  uploader.copy(weight.codes, at);
  uploader.copy(weight.scales, at + scales_at);
  uploader.copy(weight.biases, at + biases_at);
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
                  .bias = element_of(f.bias)};
  return {f, weight.out, weight.in, std::move(packed)};
}

Weight stack_weights(const std::shared_ptr<const Device>& device, std::span<const Weight> experts,
                     const ByteCounter& counter) {
  const WeightView& one = view_of(experts.front());
  const Format& f = experts.front().format;
  const size_t count = experts.size(), out = size_t(one.out), codes = out * one.row_bytes;
  // Tensor copies want rows at multiples of 16 bytes, and those of one length for scales and biases.
  const size_t scale = size_t(size_of(f.scale)), bias = size_t(size_of(f.bias)), unit = 16 / std::min(scale, bias);
  const size_t groups = one.bits == 0 ? 0 : size_t(one.in / one.group), pitch = (groups + unit - 1) / unit * unit;
  const size_t scales_at = aligned(count * codes), biases_at = scales_at + aligned(count * out * pitch * scale);
  auto packed = std::make_shared<CudaWeight>();
  packed->bytes = DeviceBytes(device, biases_at + aligned(count * out * pitch * bias), counter);
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
    copy_rows(biases_at + e * out * pitch * bias, expert.biases, bias);
  }
  check(cudaStreamSynchronize(device->upload()), "stack experts");  // those who gave them may free them
  packed->view = one;
  packed->view.codes = reinterpret_cast<const uint8_t*>(at);
  packed->view.scales = at + scales_at;
  packed->view.biases = at + biases_at;
  packed->view.scale_row = int32_t(pitch);
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
