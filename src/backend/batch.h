// One step of computation as plain arrays: which tokens, where they continue, which adapter each row uses. No policy
// here: the scheduler chose, the backend uploads. Whatever changes from step to step is in here and never an argument
// of a kernel.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace bumblebee {

/// Where a segment's rows find what recurrent layers kept of its past (-1: nothing, a sequence begins) and where they
/// leave it. Both may be the same. No segment writes what another one reads or writes.
struct StateSlots {
  int32_t from = -1, to = -1;
};

/// `rows` consecutive rows of the batch continue one sequence that has `past` tokens in the cache already. The
/// sequence's pages, in order, are pages[first_page .. first_page + ceil((past + rows) / page_size)).
struct Segment {
  int first = 0, rows = 0, past = 0;
  int first_page = 0;
  StateSlots state = {};  // of models with recurrent layers
  /// Its sequence is longer than what the model's first rotation is for: RopeParams::long_inv_freq.
  bool stretched = false;
};

/// What to add to one token's logit before the choice: s += add, then s = s < 0 ? s·penalty : s / penalty, then s -=
/// subtract, in f32. A masked token has add = -infinity. The defaults change no bit.
struct LogitChange {
  int32_t token = 0;
  float add = -0.0f, penalty = 1, subtract = 0;
};

/// How the token of one logit row is chosen (backend/sample.h), in plain numbers.
struct SampleRow {
  enum class Mode : uint8_t { none, greedy, draw };  // none: the host chooses, or the row is padding; its id is -3
  Mode mode = Mode::none;
  bool logprob = false;  // wanted, from the distribution before any change
  int top_logprobs = 0;  // so many of the likeliest tokens beside it; needs `logprob`
  int top_k = 0;         // 0: off
  double top_p = 1;      // 1: off
  double min_p = 0;      // 0: off
  double temperature = 1;
  uint64_t seed = 0, draw = 0;        // the number drawn is uniform01(seed, draw)
  int32_t forced = -1;                // from 0: the only token left
  int first_change = 0, changes = 0;  // in Batch::changes, by ascending token, each token once
};

struct Batch {
  /// [rows] A token, or chosen(i): the one that logit row i of the executor's step before chose, which nobody need know
  /// yet.
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;    // [rows]
  std::vector<int32_t> slot;         // [rows] adapter slot, -1 for none
  std::vector<Segment> segments;     // cover all rows but the padding, in order
  std::vector<int32_t> logit_rows;   // rows whose predictions are needed, ascending
  std::vector<int32_t> pages;        // page tables of all segments, one after the other
  int padding = 0;                   // rows at the end that belong to nobody; what they compute is not looked at
  std::vector<SampleRow> sample;     // [logit_rows] how tokens are chosen; empty: nobody asks
  std::vector<LogitChange> changes;  // of all rows of `sample`

  static int32_t chosen(int logit_row) { return -1 - logit_row; }
  /// Tokens with those that the step before chose in their places; `ids` are its.
  void resolve_chosen(std::span<const int32_t> ids);
  /// The largest top_logprobs of the rows that ask for a logprob; -1 when none does.
  int most_logprobs() const;
  int rows() const { return int(tokens.size()); }
  bool has_adapters() const;
  /// No two rows are of one sequence, as where all sequences grow by a token.
  bool rows_are_alone() const;
  /// [rows] Whether the row's segment is stretched.
  std::vector<bool> stretched_rows() const;
  /// Padded to `rows` rows and `logit_rows` of those whose logits are needed (the last one again and again).
  void pad(int rows, int logit_rows);
  /// Leaves the logit rows alone, which must be the last ones of each segment; those that are padding still are. A
  /// segment's other rows become its past: keys and values of all of them are in the cache already.
  void keep_logit_rows();
  /// Appends a segment of `tokens` after `past` cached ones; `pages` are all of the sequence's pages. Wants its last
  /// row, or all.
  enum class Want : uint8_t { none, last, all };
  void append(std::span<const int32_t> tokens_in, int past, std::span<const int32_t> pages_in, Want want,
              int32_t slot_in = -1, StateSlots state = {});
};

/// Aborts (BB_CHECK) when the arrays contradict each other; backends call it in bind(). `states`: how many the store
/// has. Tokens are checked where they meet a table of embeddings.
void check(const Batch& batch, int page_size, int page_count, int states = 0);
/// The same for choices among `vocab` tokens.
void check_choices(const Batch& batch, int vocab);

}  // namespace bumblebee
