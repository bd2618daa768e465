// An adapter's change of one module as a dense matrix, row by row: W' of W. What fusing writes, and what run-time
// application is measured against. Sums are in f64, a row at a time, so memory does not grow with the module.
#pragma once

#include <span>
#include <vector>

#include "lora/adapter.h"

namespace bumblebee::lora {

/// The module W as the base stores it: a linear [out, in], an embedding [vocab, dims], a norm [1, size] or a stack of
/// experts, one below the other.
class DenseDelta {
 public:
  /// `change` must outlive this and fit the module. `embedding`: W's rows are tokens.
  DenseDelta(const ModuleDelta& change, bool embedding, Dialect dialect);

  int rows() const { return rows_; }
  int cols() const { return cols_; }
  /// True for PEFT's DoRA of an embedding, whose norms run down the columns: every row must be shown to observe()
  /// before the first change().
  bool needs_columns() const { return !columns_.empty(); }
  void observe(int row, std::span<const double> base);

  /// `values` holds row `row` of W [cols] and becomes that row of W'.
  void change(int row, std::span<double> values) const;
  /// scale·BA alone, row `row` of W's shape, without DoRA's norm; zeros without factors.
  void delta(int row, std::span<double> values) const;

 private:
  void add_delta(int row, std::span<double> values) const;
  void replace_and_add(int row, std::span<double> values) const;

  const ModuleDelta& change_;
  bool embedding_ = false;
  int rows_ = 0, cols_ = 0;
  std::vector<double> columns_;  // [cols] squares of the columns of W + scale·BA
};

/// The Frobenius norm of scale·BA in O(rank²·(in + out)), never making the product; 0 without factors.
double delta_norm(const LowRank& low_rank);

}  // namespace bumblebee::lora
