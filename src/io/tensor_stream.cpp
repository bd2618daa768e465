// Chunks of rows: decode and encode in parallel, append in order; scales and biases of a matrix wait until its codes
// are out.
#include "io/tensor_stream.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>

#include "base/error.h"
#include "io/quote.h"
#include "quant/elements.h"
#include "quant/float_codes.h"

namespace bumblebee {
namespace {

constexpr uint64_t kChunkElements = uint64_t{1} << 21;

/// The first error that any thread met; the pool's bodies must not throw.
class FirstError {
 public:
  template <class F>
  void guard(F&& body) {
    try {
      body();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

float rounded(float value, DType dtype) {
  std::byte bytes[4];
  store_float(bytes, dtype, 0, value);
  return load_float(bytes, dtype, 0);
}

Format format_of(const MatrixTarget& target) {
  return target.spec ? bumblebee::format_of(*target.spec, target.dtype) : Format::dense(target.dtype);
}

class MatrixStream {
 public:
  MatrixStream(const MatrixTarget& target, const RowReader& rows, const StreamContext& context)
      : target_(target), rows_(rows), context_(context), errors_(size_t(context.pool.threads()), 0.0) {}

  double run(uint64_t source_bytes) {
    const uint64_t per_chunk = std::max<uint64_t>(1, kChunkElements / std::max<uint64_t>(1, rows_.in));
    uint64_t counted = 0;
    for (uint64_t first = 0; first < rows_.out; first += per_chunk) {
      const uint64_t count = std::min(per_chunk, rows_.out - first);
      chunk(first, count);
      const uint64_t now = uint64_t(double(source_bytes) * double(first + count) / double(rows_.out));
      context_.progress.add(target_.path, now - counted);
      counted = now;
    }
    context_.writer.append(scales_);
    context_.writer.append(biases_);
    return *std::max_element(errors_.begin(), errors_.end());
  }

 private:
  void chunk(uint64_t first, uint64_t count) {
    const Format format = format_of(target_);
    const size_t code_row = row_bytes(format, int(rows_.in));
    const size_t scale_row = target_.spec ? size_t(rows_.in) / size_t(format.group) * size_t(size_of(format.scale)) : 0;
    const size_t bias_row = format.biased ? scale_row : 0;
    codes_.resize(size_t(count) * code_row);
    const size_t old = scales_.size(), old_biases = biases_.size();
    scales_.resize(old + size_t(count) * scale_row);
    biases_.resize(old_biases + size_t(count) * bias_row);
    FirstError error;
    context_.pool.for_ranges(int64_t(count), 1, [&](int64_t begin, int64_t end, int thread) {
      error.guard([&] {
        std::vector<float> values(rows_.in), back(rows_.in);
        for (int64_t i = begin; i < end; ++i) {
          rows_.decode(first + uint64_t(i), values);
          const Row row = {std::span(codes_).subspan(size_t(i) * code_row, code_row),
                           std::span(scales_).subspan(old + size_t(i) * scale_row, scale_row),
                           std::span(biases_).subspan(old_biases + size_t(i) * bias_row, bias_row)};
          target_.spec ? quantize(values, row, back) : cast(values, row, back);
          for (size_t k = 0; k < values.size(); ++k) {
            if (values[k] == back[k] || (std::isnan(values[k]) && std::isnan(back[k]))) continue;
            errors_[size_t(thread)] = std::max(errors_[size_t(thread)], std::abs(double(values[k]) - double(back[k])));
          }
        }
      });
    });
    error.rethrow();
    context_.writer.append(codes_);
  }

  struct Row {
    std::span<std::byte> codes, scales, biases;
  };

  void cast(std::span<const float> values, const Row& row, std::span<float> back) const {
    for (size_t k = 0; k < values.size(); ++k) {
      store_float(row.codes, target_.dtype, k, values[k]);
      back[k] = load_float(row.codes, target_.dtype, k);
      if (std::isinf(back[k]) && std::isfinite(values[k])) {
        throw Error(ErrorCode::bad_file, target_.path,
                    cat("value ", values[k], " does not fit ", to_string(target_.dtype)));
      }
    }
  }

  void quantize(std::span<const float> values, const Row& row, std::span<float> back) const {
    const int in = int(rows_.in);
    std::vector<float> typed(values.begin(), values.end());
    for (float& value : typed) value = rounded(value, target_.dtype);
    QuantizedMatrix matrix;
    try {
      matrix = quantize_as(*target_.spec, typed, 1, in, target_.dtype, context_.variant);
    } catch (const Error& e) {
      throw Error(e.code(), target_.path, e.what());
    }
    std::copy(matrix.codes.begin(), matrix.codes.end(), row.codes.begin());
    std::copy(matrix.scales.begin(), matrix.scales.end(), row.scales.begin());
    std::copy(matrix.biases.begin(), matrix.biases.end(), row.biases.begin());
    decode_row<float>({format_of(target_), 1, in, row.codes, row.scales, row.biases, target_.path, nullptr}, 0, back);
  }

  const MatrixTarget& target_;
  const RowReader& rows_;
  const StreamContext& context_;
  std::vector<double> errors_;
  std::vector<std::byte> codes_, scales_, biases_;
};

}  // namespace

std::vector<TensorSpec> tensors_of(const MatrixTarget& target) {
  if (!target.spec) return {{target.path + ".weight", target.dtype, target.shape}};
  std::vector<uint64_t> packed = target.shape, groups = target.shape;
  packed.back() = packed.back() * uint64_t(target.spec->bits) / 32;
  groups.back() /= uint64_t(target.spec->group);
  const Format format = format_of(target);
  std::vector<TensorSpec> tensors = {{target.path + ".weight", DType::u32, packed},
                                     {target.path + ".scales", format.biased ? format.scale : DType::u8, groups}};
  if (format.biased) tensors.push_back({target.path + ".biases", format.bias, groups});
  return tensors;
}

std::string describe(const MatrixTarget& target) { return to_string(format_of(target)); }

double stream_matrix(const MatrixTarget& target, const RowReader& rows, uint64_t source_bytes,
                     const StreamContext& context) {
  return MatrixStream(target, rows, context).run(source_bytes);
}

}  // namespace bumblebee
