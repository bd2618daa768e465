// Quantization works on blocks of rows, so that the f32 copy of a matrix never exists as a whole.
#include "io/quantizing_source.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>

#include "base/error.h"
#include "io/hf_config.h"
#include "quant/affine.h"
#include "quant/elements.h"

namespace bumblebee {
namespace {

constexpr int kBlockRows = 64;

/// Rows [first, first + rows) of all of `dense`, a stack or one matrix, quantized into their place in `out`.
void quantize_rows(const HostWeight& dense, int first, int rows, const Format& format, QuantizedMatrix& out) {
  const int in = dense.in;
  std::vector<float> values(size_t(rows) * size_t(in));
  for (int r = 0; r < rows; ++r) {
    decode_row<float>(expert_of(dense, (first + r) / dense.out), (first + r) % dense.out,
                      std::span(values).subspan(size_t(r) * size_t(in), size_t(in)));
  }
  const QuantizedMatrix block =
      quantize_affine(values, rows, in, format.bits, format.group, format.scale, AffineVariant::cpu);
  const size_t parts = size_t(in / format.group) * size_t(size_of(format.scale));
  std::copy(block.codes.begin(), block.codes.end(),
            out.codes.begin() + ptrdiff_t(size_t(first) * row_bytes(format, in)));
  std::copy(block.scales.begin(), block.scales.end(), out.scales.begin() + ptrdiff_t(size_t(first) * parts));
  std::copy(block.biases.begin(), block.biases.end(), out.biases.begin() + ptrdiff_t(size_t(first) * parts));
}

}  // namespace

HostWeight QuantizingSource::matrix(const std::string& path, int out, int in) {
  return quantized(path, source_.matrix(path, out, in));
}

/// A stack is one matrix with the rows of all: rows do not see each other.
HostWeight QuantizingSource::experts(const std::string& path, int experts, int out, int in) {
  HostWeight stack = source_.experts(path, experts, out, in);
  if (int64_t{out} * experts > INT32_MAX) {
    throw Error(ErrorCode::unsupported, path,
                cat("rows of all experts: expected at most ", INT32_MAX, ", got ", int64_t{out} * experts));
  }
  return quantized(path, std::move(stack));
}

HostWeight QuantizingSource::quantized(const std::string& path, HostWeight dense) const {
  const int out = dense.out * dense.experts, in = dense.in;
  const std::optional<QuantSpec> spec = config_.quantized_as(path, {bits_, group_});
  if (!spec || dense.format.kind != Format::Kind::dense || in % spec->group != 0) return dense;
  HostWeight weight{.format = Format::affine(spec->bits, spec->group, dense.format.scale, dense.format.scale),
                    .out = dense.out,
                    .in = in,
                    .codes = {},
                    .scales = {},
                    .biases = {},
                    .name = dense.name,
                    .keep = nullptr,
                    .experts = dense.experts};
  if (pool_ == nullptr) return weight;

  auto matrix = std::make_shared<QuantizedMatrix>();
  const size_t parts = size_t(out) * size_t(in / spec->group) * size_t(size_of(weight.format.scale));
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

}  // namespace bumblebee
