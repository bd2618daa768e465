// The choice of one row's token, as backend/sample.h defines it, with one pass over the logits: what follows asks only
// blocks whose largest score is large enough. Same tokens, same bits of logprobs, since every sum that is kept has the
// definition's order.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "backend/batch.h"

namespace bumblebee::cpu {

/// Keeps its memory from row to row. read(), look() at all blocks and begin(); then weigh() over all blocks and add()
/// in order, or neither where weighs() says so; then finish().
class RowSampler {
 public:
  /// Room for any row, so that nothing below allocates.
  void reserve(int vocab);

  /// Whether a row needs exponentials of the whole vocabulary: nearly all of its work.
  static bool weighs(const SampleRow& row, int vocab);

  /// The row. `changes` are its own.
  void read(std::span<const float> logits, const SampleRow& row, std::span<const LogitChange> changes);
  /// Finds the largest logits of blocks [first, last); several threads may each take some.
  void look(int first, int last);
  /// After all blocks.
  void begin();
  int blocks() const { return int(raw_.tops.size()); }
  /// Exponentials of blocks [first, last); several threads may each take some.
  void weigh(int first, int last);
  /// Adds the exponentials of one block to the totals; blocks come in order.
  void add(int block);
  /// The token, or why there is none. Logprobs go to logprobs[0] and, of the likeliest, behind it and into top_ids.
  int32_t finish(double* logprobs, int32_t* top_ids);

 private:
  static constexpr int kBlock = 64;
  /// A row in blocks.
  struct Blocks {
    std::vector<const float*> at;
    std::vector<float> tops;  // the largest of each; NaN where a logit is NaN or +infinity
    float highest = 0;
  };
  struct Candidate {
    int32_t id;
    float score;  // after temperature
    double weight;
  };

  int size(int block) const { return std::min(kBlock, vocab_ - block * kBlock); }
  const Blocks& scores() const { return changes_.empty() ? raw_ : changed_; }
  bool find_highest();
  void apply_changes();
  int32_t first_of_highest() const;
  void collect(const Blocks& blocks, float temperature, float bound);
  void collect_top(const Blocks& blocks, float temperature, int count);
  void collect_min_p();
  void keep_top_p_of_candidates();
  void collect_top_p();
  void weigh_candidates();
  void cut(size_t kept);
  int32_t draw_from_candidates() const;
  int32_t draw_from_all() const;
  int32_t choose();
  void write_logprobs(int32_t token, double* logprobs, int32_t* top_ids);

  std::span<const float> logits_;
  std::span<const LogitChange> changes_;
  SampleRow row_;
  int vocab_ = 0;
  float temperature_ = 1;
  int32_t token_ = 0;  // kNotAsked until it is known
  bool dense_ = false, same_ = false;
  double max_ = 0, raw_max_ = 0;  // of scores after temperature; of logits
  Blocks raw_, changed_;
  std::vector<float> patched_;                 // blocks with changes
  std::vector<double> weights_, raw_weights_;  // [vocab] exp(score - max) of scores and of logits
  std::vector<double> totals_;                 // [blocks] of weights up to the end of each
  double total_ = 0, raw_total_ = 0;
  std::vector<Candidate> candidates_;  // by id but while they are cut
  std::vector<float> values_;          // to find the k-th largest of
};

}  // namespace bumblebee::cpu
