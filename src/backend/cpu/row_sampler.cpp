// Everything but exponentials is one pass at the speed of the cache, then work on few blocks: the k-th largest of the
// blocks' largest scores is no larger than the k-th largest score, so other blocks hold none of the k largest.
#include "backend/cpu/row_sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "backend/sample.h"
#include "base/rng.h"

namespace bumblebee::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kFirstPiece = 64;  // candidates of top-p at first: most of the mass is in few tokens

// Four numbers at once, which every processor has: the compiler does not find them by itself where NaN matters.
using Floats = float __attribute__((vector_size(16)));
using Masks = int32_t __attribute__((vector_size(16)));

/// The largest of `count` values into `top`; false with NaN or +infinity among them.
bool block_top(const float* x, int count, float& top) {
  const Floats infinity = {kInfinity, kInfinity, kInfinity, kInfinity};
  Floats highest[] = {-infinity, -infinity, -infinity, -infinity};
  Masks fine[] = {Masks{} - 1, Masks{} - 1, Masks{} - 1, Masks{} - 1};
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int j = 0; j < 4; ++j) {
      Floats v;
      std::memcpy(&v, x + i + 4 * j, sizeof v);
      highest[j] = v > highest[j] ? v : highest[j];
      fine[j] &= v < infinity;
    }
  }
  top = -kInfinity;
  bool all_fine = true;
  for (; i < count; ++i) {
    top = std::max(top, x[i]);
    all_fine = all_fine && x[i] < kInfinity;
  }
  const Masks both = fine[0] & fine[1] & fine[2] & fine[3];
  for (int j = 0; j < 4; ++j) {
    for (const Floats& h : highest) top = std::max(top, h[j]);
    all_fine = all_fine && both[j] != 0;
  }
  return all_fine;
}

constexpr auto kByLikelihood = [](const auto& a, const auto& b) {
  return a.score != b.score ? a.score > b.score : a.id < b.id;
};

}  // namespace

void RowSampler::reserve(int vocab) {
  const size_t count = size_t(vocab), block_count = size_t((vocab + kBlock - 1) / kBlock);
  for (Blocks* blocks : {&raw_, &changed_}) {
    blocks->at.reserve(block_count);
    blocks->tops.reserve(block_count);
  }
  patched_.reserve(block_count * kBlock);
  weights_.reserve(count);
  raw_weights_.reserve(count);
  totals_.reserve(block_count);
  candidates_.reserve(count);
  values_.reserve(count);
}

bool RowSampler::weighs(const SampleRow& row, int vocab) {
  if (row.mode == SampleRow::Mode::none) return false;
  if (row.logprob) return true;
  return row.mode == SampleRow::Mode::draw && row.forced < 0 && (row.top_k <= 0 || row.top_k >= vocab) &&
         (row.top_p < 1 || row.min_p <= 0);
}

void RowSampler::look(int first, int last) {
  for (int b = first; b < last; ++b) {
    raw_.at[size_t(b)] = logits_.data() + size_t(b) * kBlock;
    float& top = raw_.tops[size_t(b)];
    if (!block_top(raw_.at[size_t(b)], size(b), top)) top = std::numeric_limits<float>::quiet_NaN();
  }
}

/// Returns false where a logit is NaN or +infinity.
bool RowSampler::find_highest() {
  raw_.highest = -kInfinity;
  bool finite = true;
  for (const float top : raw_.tops) {
    finite = finite && top < kInfinity;
    raw_.highest = std::max(raw_.highest, top);
  }
  return finite;
}

/// Blocks with changes are copied, the others stay where they are.
void RowSampler::apply_changes() {
  changed_.at.assign(raw_.at.begin(), raw_.at.end());
  changed_.tops.assign(raw_.tops.begin(), raw_.tops.end());
  patched_.clear();
  for (size_t i = 0; i < changes_.size();) {
    const int b = changes_[i].token / kBlock;
    patched_.insert(patched_.end(), raw_.at[size_t(b)], raw_.at[size_t(b)] + size(b));  // within what is reserved
    float* const copy = patched_.data() + patched_.size() - size(b);
    for (; i < changes_.size() && changes_[i].token / kBlock == b; ++i) {
      float& s = copy[changes_[i].token % kBlock];
      s = changed(s, changes_[i]);
    }
    changed_.at[size_t(b)] = copy;
    block_top(copy, size(b), changed_.tops[size_t(b)]);
  }
  changed_.highest = *std::max_element(changed_.tops.begin(), changed_.tops.end());
}

void RowSampler::read(std::span<const float> logits, const SampleRow& row, std::span<const LogitChange> changes) {
  logits_ = logits;
  row_ = row;
  changes_ = row.forced >= 0 ? std::span<const LogitChange>() : changes;
  vocab_ = int(logits.size());
  temperature_ = float(row.temperature);
  token_ = kNotAsked;
  dense_ = false;
  total_ = raw_total_ = 0;
  const size_t count = size_t((vocab_ + kBlock - 1) / kBlock);
  raw_.at.resize(count);
  raw_.tops.resize(count);
}

void RowSampler::begin() {
  if (!find_highest()) {
    token_ = kNotFinite;
    return;
  }
  raw_max_ = raw_.highest == -kInfinity ? 0 : double(raw_.highest);
  if (!changes_.empty()) apply_changes();
  same_ = changes_.empty() && temperature_ == 1;
  const float highest = scores().highest / temperature_;
  max_ = double(highest);
  if (row_.forced >= 0) {
    token_ = row_.forced;
  } else if (highest == -kInfinity) {
    token_ = kAllMasked;
  } else if (row_.mode == SampleRow::Mode::greedy || highest == kInfinity) {
    token_ = first_of_highest();
  } else {
    SampleRow draw = row_;
    draw.logprob = false;
    dense_ = weighs(draw, vocab_);
  }
  totals_.resize(raw_.tops.size());
  if (dense_) weights_.resize(size_t(vocab_));
  if (row_.logprob) raw_weights_.resize(size_t(vocab_));
}

void RowSampler::weigh(int first, int last) {
  if (token_ == kNotFinite || token_ == kAllMasked) return;
  for (int b = first; b < last; ++b) {
    const size_t start = size_t(b) * kBlock;
    const auto exponentials = [&](const float* x, float temperature, double max, double* out) {
      for (int j = 0; j < size(b); ++j) out[j] = std::exp(double(x[j] / temperature) - max);  // masked ones: +0
    };
    if (dense_) exponentials(scores().at[size_t(b)], temperature_, max_, weights_.data() + start);
    if (row_.logprob && !(dense_ && same_)) exponentials(raw_.at[size_t(b)], 1, raw_max_, raw_weights_.data() + start);
  }
}

void RowSampler::add(int block) {
  if (token_ == kNotFinite || token_ == kAllMasked) return;
  const size_t start = size_t(block) * kBlock;
  const auto sum = [&](const std::vector<double>& weights, double total) {
    for (int j = 0; j < size(block); ++j) total += weights[start + size_t(j)];
    return total;
  };
  if (dense_) totals_[size_t(block)] = total_ = sum(weights_, total_);
  if (row_.logprob) raw_total_ = dense_ && same_ ? total_ : sum(raw_weights_, raw_total_);
}

int32_t RowSampler::first_of_highest() const {
  const float highest = float(max_);
  for (int b = 0; b < blocks(); ++b) {
    if (scores().tops[size_t(b)] / temperature_ != highest) continue;
    for (int j = 0;; ++j) {
      if (scores().at[size_t(b)][j] / temperature_ == highest) return b * kBlock + j;
    }
  }
  return kAllMasked;  // not reached: some block has it
}

/// Unmasked tokens with a score of `bound` at least, without weights.
void RowSampler::collect(const Blocks& blocks, float temperature, float bound) {
  candidates_.clear();
  for (size_t b = 0; b < blocks.tops.size(); ++b) {
    if (blocks.tops[b] / temperature < bound || blocks.tops[b] == -kInfinity) continue;
    for (int j = 0; j < size(int(b)); ++j) {
      const float s = blocks.at[b][j] / temperature;
      if (s >= bound && s > -kInfinity) candidates_.push_back({int32_t(b) * kBlock + j, s, 0});
    }
  }
}

/// The `count` likeliest unmasked tokens and all that equal the last of them.
void RowSampler::collect_top(const Blocks& blocks, float temperature, int count) {
  const auto nth_largest = [&](ptrdiff_t n) {
    std::nth_element(values_.begin(), values_.begin() + (n - 1), values_.end(), std::greater<>());
    return values_[size_t(n - 1)];
  };
  float bound = -kInfinity;
  if (size_t(count) < blocks.tops.size()) {
    values_.assign(blocks.tops.begin(), blocks.tops.end());
    bound = nth_largest(count) / temperature;
  }
  collect(blocks, temperature, bound);
  if (candidates_.size() <= size_t(count)) return;
  values_.clear();
  for (const Candidate& c : candidates_) values_.push_back(c.score);
  const float threshold = nth_largest(count);
  std::erase_if(candidates_, [&](const Candidate& c) { return c.score < threshold; });
}

void RowSampler::weigh_candidates() {
  for (Candidate& c : candidates_) c.weight = std::exp(double(c.score) - max_);
}

/// Keeps the first ones, at least one, and puts them in order of id again.
void RowSampler::cut(size_t kept) {
  candidates_.resize(std::max<size_t>(kept, 1));
  std::sort(candidates_.begin(), candidates_.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
}

void RowSampler::keep_top_p_of_candidates() {
  double sum = 0;
  for (const Candidate& c : candidates_) sum += c.weight;
  std::sort(candidates_.begin(), candidates_.end(), kByLikelihood);
  const double wanted = row_.top_p * sum;
  double mass = 0;
  size_t kept = 0;
  while (kept < candidates_.size() && mass < wanted) mass += candidates_[kept++].weight;
  cut(kept);
}

/// Of the whole vocabulary, whose weights are known: the likeliest piece by piece. A piece with all that equals its
/// last is where the sorted whole begins.
void RowSampler::collect_top_p() {
  const double wanted = row_.top_p * total_;
  double mass = 0;
  size_t kept = 0;
  for (int64_t piece = kFirstPiece;; piece *= 8) {
    collect_top(scores(), temperature_, int(std::min<int64_t>(piece, vocab_)));
    std::sort(candidates_.begin(), candidates_.end(), kByLikelihood);
    while (kept < candidates_.size() && mass < wanted) mass += weights_[size_t(candidates_[kept++].id)];
    if (mass >= wanted || int64_t(candidates_.size()) < piece || piece >= vocab_) break;
  }
  cut(kept);
  for (Candidate& c : candidates_) c.weight = weights_[size_t(c.id)];
}

/// Without another filter: exponentials only where they may be large enough. The margin is far above their error.
void RowSampler::collect_min_p() {
  const double lowest = max_ + std::log(row_.min_p) - 1;
  collect(scores(), temperature_, std::nextafter(float(lowest), -kInfinity));
  weigh_candidates();
}

int32_t RowSampler::draw_from_candidates() const {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  const double u = uniform01(row_.seed, row_.draw) * total;
  double sum = 0;
  for (const Candidate& c : candidates_) {
    sum += c.weight;
    if (sum > u) return c.id;
  }
  return candidates_.back().id;
}

int32_t RowSampler::draw_from_all() const {
  const double u = uniform01(row_.seed, row_.draw) * total_;
  const auto found = std::upper_bound(totals_.begin(), totals_.end(), u);
  if (found == totals_.end()) {  // u was rounded up to the total: the last token that is not masked
    for (int id = vocab_ - 1;; --id) {
      if (scores().at[size_t(id / kBlock)][id % kBlock] / temperature_ != -kInfinity) return id;
    }
  }
  const size_t start = size_t(found - totals_.begin()) * kBlock;
  double sum = found == totals_.begin() ? 0 : *(found - 1);
  for (size_t id = start;; ++id) {
    sum += weights_[id];
    if (sum > u) return int32_t(id);
  }
}

int32_t RowSampler::choose() {
  if (dense_ && row_.top_p >= 1) return draw_from_all();
  if (dense_) {
    collect_top_p();
  } else if (row_.top_k > 0 && row_.top_k < vocab_) {
    collect_top(scores(), temperature_, row_.top_k);
    weigh_candidates();
    if (row_.top_p < 1) keep_top_p_of_candidates();
  } else {
    collect_min_p();
  }
  if (row_.min_p > 0) std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < row_.min_p; });
  return draw_from_candidates();
}

void RowSampler::write_logprobs(int32_t token, double* logprobs, int32_t* top_ids) {
  const double log_sum = raw_max_ + std::log(raw_total_);
  logprobs[0] = double(logits_[size_t(token)]) - log_sum;
  const int count = std::min(row_.top_logprobs, vocab_);
  if (count <= 0) return;
  collect_top(raw_, 1, count);
  std::sort(candidates_.begin(), candidates_.end(), kByLikelihood);
  if (candidates_.size() > size_t(count)) candidates_.resize(size_t(count));
  for (int id = 0; candidates_.size() < size_t(count); ++id) {
    if (logits_[size_t(id)] == -kInfinity) candidates_.push_back({id, -kInfinity, 0});
  }
  for (int i = 0; i < count; ++i) {
    top_ids[i] = candidates_[size_t(i)].id;
    logprobs[1 + i] = double(candidates_[size_t(i)].score) - log_sum;
  }
}

int32_t RowSampler::finish(double* logprobs, int32_t* top_ids) {
  if (token_ == kNotAsked) token_ = choose();
  if (token_ >= 0 && row_.logprob) write_logprobs(token_, logprobs, top_ids);
  return token_;
}

}  // namespace bumblebee::cpu
