// One batch of training as plain arrays: rows of the data laid one after the other. Nothing is padded, because
// attention stays inside segments.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/batch.h"

namespace bumblebee::train {

/// A row of n tokens becomes a segment of n - 1 rows: its inputs are tokens 0..n-2, its targets tokens 1..n-1.
struct TrainBatch {
  std::vector<int32_t> tokens;           // [rows]
  std::vector<int32_t> positions;        // [rows] from 0 in every segment
  std::vector<int32_t> targets;          // [rows] -1: not scored
  std::vector<Segment> segments;         // cover all rows, in order; past is 0, there are no pages
  int64_t scored = 0;                    // targets that are not -1; never 0
  std::vector<int64_t> rows_of_dataset;  // one a segment: index in the dataset

  int rows() const { return int(tokens.size()); }
};

}  // namespace bumblebee::train
