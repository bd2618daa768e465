// Quantization works on blocks of rows, so that the f32 copy of a matrix never exists as a whole.
#include "engine/quantizing_source.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>

#include "base/error.h"
#include "quant/affine.h"

namespace bumblebee::engine {
namespace {

constexpr int kBlockRows = 64;

uint64_t size_of_weight(const HostWeight& w) { return w.codes.size() + w.scales.size() + w.biases.size(); }

/// Rows [first, first + rows) of `dense`, quantized into their place in `out`.
void quantize_rows(const HostWeight& dense, int first, int rows, const Format& format, QuantizedMatrix& out) {
  const int in = dense.in;
  std::vector<float> values(size_t(rows) * size_t(in));
  for (int r = 0; r < rows; ++r)
    decode_row<float>(dense, first + r, std::span(values).subspan(size_t(r) * size_t(in), size_t(in)));
  const QuantizedMatrix block =
      quantize_affine(values, rows, in, format.bits, format.group, format.scale, AffineVariant::cpu);
  const size_t parts = size_t(in / format.group) * size_t(size_of(format.scale));
  std::copy(block.codes.begin(), block.codes.end(),
            out.codes.begin() + ptrdiff_t(size_t(first) * row_bytes(format, in)));
  std::copy(block.scales.begin(), block.scales.end(), out.scales.begin() + ptrdiff_t(size_t(first) * parts));
  std::copy(block.biases.begin(), block.biases.end(), out.biases.begin() + ptrdiff_t(size_t(first) * parts));
}

}  // namespace

HostWeight RecordingSource::matrix(const std::string& path, int out, int in) {
  HostWeight weight = source_.matrix(path, out, in);
  const Format& format = weight.format;
  const bool affine = format.kind == Format::Kind::affine;
  // Not from the spans: a plan has none. Same figures otherwise.
  const uint64_t groups = affine ? uint64_t(in / format.group) : 0;
  const uint64_t bytes =
      uint64_t(out) * (row_bytes(format, in) + groups * uint64_t(size_of(format.scale) + size_of(format.bias)));
  modules_.push_back({.name = path,
                      .out = out,
                      .in = in,
                      .mode = affine ? "affine" : "dense",
                      .bits = affine ? format.bits : 0,
                      .group_size = affine ? format.group : 0,
                      .dtype = std::string(to_string(format.scale)),
                      .bytes = bytes});
  parameters_ += uint64_t(out) * uint64_t(in);
  bytes_ += bytes;
  return weight;
}

HostWeight RecordingSource::vector(const std::string& name, int size) {
  HostWeight weight = source_.vector(name, size);
  parameters_ += uint64_t(size);
  bytes_ += size_of_weight(weight);
  return weight;
}

HostWeight QuantizingSource::matrix(const std::string& path, int out, int in) {
  HostWeight dense = source_.matrix(path, out, in);
  if (dense.format.kind != Format::Kind::dense || in % group_ != 0) return dense;
  HostWeight weight{.format = Format::affine(bits_, group_, dense.format.scale, dense.format.scale),
                    .out = out,
                    .in = in,
                    .codes = {},
                    .scales = {},
                    .biases = {},
                    .name = dense.name,
                    .keep = nullptr};
  if (pool_ == nullptr) return weight;

  auto matrix = std::make_shared<QuantizedMatrix>();
  const size_t parts = size_t(out) * size_t(in / group_) * size_t(size_of(weight.format.scale));
  matrix->codes.resize(size_t(out) * row_bytes(weight.format, in));
  matrix->scales.resize(parts);
  matrix->biases.resize(parts);
  std::mutex mutex;
  std::exception_ptr error;  // a pool's body must not throw
  pool_->for_each((out + kBlockRows - 1) / kBlockRows, [&](int64_t block, int) {
    try {
      const int first = int(block) * kBlockRows;
      quantize_rows(dense, first, std::min(kBlockRows, out - first), weight.format, *matrix);
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
    }
  });
  if (error) {
    try {
      std::rethrow_exception(error);
    } catch (const Error& e) {
      throw Error(e.code(), path, cat("cannot be quantized: ", e.what()));
    }
  }
  weight.codes = matrix->codes;
  weight.scales = matrix->scales;
  weight.biases = matrix->biases;
  weight.keep = std::move(matrix);
  return weight;
}

}  // namespace bumblebee::engine
