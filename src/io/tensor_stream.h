// A matrix on its way from one encoding to another, a few thousand rows at a time: rows are decoded to f32 on all
// threads, encoded, and appended to the checkpoint being written. Memory does not depend on the size of the model.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "io/checkpoint_writer.h"
#include "io/conversion.h"
#include "io/hf_config.h"
#include "io/safetensors.h"
#include "quant/affine.h"

namespace bumblebee {

/// Where the rows of a matrix [out, in] come from. `decode` is called from several threads.
struct RowReader {
  uint64_t out = 0, in = 0;
  std::function<void(uint64_t row, std::span<float> values)> decode;
};

/// How a matrix is to be written.
struct MatrixTarget {
  std::string path;               // module path; the tensors are path.weight, path.scales and, if affine, path.biases
  DType dtype = DType::f32;       // of the dense elements, or of scales and biases
  std::optional<QuantSpec> spec;  // quantize, or write dense
  std::vector<uint64_t> shape;    // logical, leading axes folded into `out` by the reader
};

/// The tensors that a target is stored as, in the order in which they are written.
std::vector<TensorSpec> tensors_of(const MatrixTarget& target);
std::string describe(const MatrixTarget& target);

/// Counts the bytes of the source for the progress callback.
class ProgressMeter {
 public:
  ProgressMeter(ConversionProgress callback, uint64_t total) : callback_(std::move(callback)), total_(total) {}
  void add(std::string_view tensor, uint64_t bytes) {
    done_ += bytes;
    if (callback_) callback_(tensor, done_, total_);
  }

 private:
  ConversionProgress callback_;
  uint64_t done_ = 0, total_ = 0;
};

struct StreamContext {
  CheckpointWriter& writer;
  ThreadPool& pool;
  ProgressMeter& progress;
  AffineVariant variant = AffineVariant::cpu;
};

/// Writes all rows. Returns the largest difference between a row as it was read and as it can be read back. Quantizing
/// rounds the values to target.dtype first, as MLX does, and throws Error(bad_file) naming the module when one is not
/// finite.
double stream_matrix(const MatrixTarget& target, const RowReader& rows, uint64_t source_bytes,
                     const StreamContext& context);

}  // namespace bumblebee
