// The order of learning: which rows share a batch, and the shuffle of every epoch. All of it is a pure function of
// data, options and cursor, so that a resumed run sees what the first one would have seen.
#pragma once

#include <cstdint>
#include <vector>

#include "dataset/dataset.h"
#include "train/batch.h"

namespace bumblebee::train {

struct BatchOptions {
  int batch_size = 4;
  int max_seq_length = 2048;
  /// Rows are packed into at most batch_size times max_seq_length tokens a batch, instead of batch_size rows of similar
  /// length.
  bool packed = false;
  uint64_t seed = 0;
  /// Fewer rows than a batch are allowed (validation and test).
  bool short_data = false;
};

/// The next batch: the `batch`-th of an epoch's shuffled order.
struct Cursor {
  uint64_t epoch = 0, batch = 0;
  bool operator==(const Cursor&) const = default;
};

/// An endless stream of batches. Composition is mlx-lm's, with real lengths: rows sorted by length (stable), cut into
/// consecutive batches, the batches shuffled in every epoch. The rows that remain make a smaller batch. `data` must
/// outlive the stream.
class BatchStream {
 public:
  /// Throws Error(bad_config) for an empty split, and for one with fewer rows than a batch unless `short_data` or
  /// `packed`.
  BatchStream(const dataset::Dataset& data, const BatchOptions& options);

  TrainBatch next();
  Cursor cursor() const { return cursor_; }
  /// Throws Error(bad_file) for a batch that an epoch does not have.
  void seek(Cursor cursor);

  int64_t batches_per_epoch() const { return int64_t(groups_.size()); }
  /// Rows of activations of the largest batch, and of an epoch.
  int64_t largest_batch() const;
  int64_t rows_per_epoch() const;
  /// The rows (indices into the data) of each batch, in the order before shuffling.
  const std::vector<std::vector<int64_t>>& groups() const { return groups_; }

 private:
  void shuffle();

  const dataset::Dataset* data_;
  BatchOptions options_;
  std::vector<std::vector<int64_t>> groups_;
  std::vector<uint32_t> order_;  // of this epoch
  Cursor cursor_;
};

}  // namespace bumblebee::train
