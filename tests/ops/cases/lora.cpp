// Adapters with mixed slots: none, absent in this module, past the table's end, several ranks and several terms in one
// batch, DoRA's factors, biases inside and after the terms, replaced weights, tables of embeddings, norms.
#include <cmath>
#include <optional>

#include "quant/elements.h"
#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

/// What rounding A and B to bf16 adds to a product of the two, relative (fast precision only).
double factor_error(const Precision& precision) { return precision.fast ? 2 * testing_support::kRoundBf16 : 0; }

struct HostTerm {
  int rank = 0;
  float scale = 0;
  std::vector<float> a, b, bias;  // [rank, in] [out, rank] [out] or empty
};

/// What a slot does to a module, on the host.
struct HostEntry {
  std::vector<HostTerm> terms;
  std::vector<float> dora_scale, bias;
  std::optional<HostWeight> weight;
};

struct Parts {
  std::vector<int> ranks = {};  // of the terms
  bool inner_bias = false, dora_scale = false, bias = false, weight = false;
};

HostEntry random_entry(Random& random, const Parts& parts, int in, int out) {
  HostEntry entry;
  for (const int rank : parts.ranks) {
    entry.terms.push_back({rank,
                           float(random.uniform(0.5, 20)),
                           random.normals(size_t(rank) * size_t(in), 1 / std::sqrt(double(in))),
                           random.normals(size_t(out) * size_t(rank), 0.1),
                           {}});
    if (parts.inner_bias) entry.terms.back().bias = random.normals(size_t(out), 0.1);
  }
  if (parts.dora_scale) {
    entry.dora_scale = random.normals(size_t(out), 0.2);
    for (float& f : entry.dora_scale) f += 1;
  }
  if (parts.bias) entry.bias = random.normals(size_t(out), 1);
  if (parts.weight)
    entry.weight = testing_support::random_dense(random, out, in, DType::f32, 1 / std::sqrt(double(in)));
  return entry;
}

/// Entries on a backend: what each slot does to one module; null for nothing.
struct Uploaded {
  std::vector<std::unique_ptr<LoraEntry>> slots;
};

/// Slots of a backend while this lives; module t is site t.
class BoundSlots {
 public:
  BoundSlots(Backend& backend, const std::vector<const Uploaded*>& modules)
      : backend_(backend), count_(modules.front()->slots.size()) {
    for (size_t s = 0; s < count_; ++s) {
      std::vector<const LoraEntry*> by_site;
      for (const Uploaded* module : modules) by_site.push_back(module->slots[s].get());
      backend.set_slot(int32_t(s), by_site);
    }
  }
  BoundSlots(const BoundSlots&) = delete;
  ~BoundSlots() {
    for (size_t s = 0; s < count_; ++s) backend_.set_slot(int32_t(s), {});
  }

 private:
  Backend& backend_;
  size_t count_;
};

Uploaded upload(Backend& backend, const std::vector<std::optional<HostEntry>>& slots, int in, int out, LowRankUse use) {
  Uploaded uploaded;
  for (const auto& slot : slots) {
    uploaded.slots.push_back(nullptr);
    if (!slot) continue;
    auto entry = std::make_unique<LoraEntry>();
    for (const HostTerm& t : slot->terms) {
      entry->terms.push_back(
          {backend.pack_factors({.rank = t.rank, .in = in, .out = out, .a = t.a, .b = t.b, .bias = t.bias}, use),
           t.scale});
    }
    if (!slot->dora_scale.empty())
      entry->dora_scale = backend.upload(slot->dora_scale, 1, int(slot->dora_scale.size()));
    if (!slot->bias.empty()) entry->bias = backend.upload(slot->bias, 1, out);
    if (slot->weight) entry->weight = backend.pack(*slot->weight);
    uploaded.slots.back() = std::move(entry);
  }
  return uploaded;
}

struct Shape {
  int in = 0;
  std::vector<int> outs;
  std::vector<int32_t> slot;        // of the batch's rows
  std::vector<int32_t> logit_rows;  // when not empty, x holds these rows only
};

class LoraCase final : public OpCase {
 public:
  /// slots[s] is what slot s does to the modules; module t leaves out every third of (s + t).
  LoraCase(const std::string& variant, Shape shape, const std::vector<Parts>& slots, bool bias, bool shared)
      : OpCase("lora", variant), shape_(std::move(shape)), shared_(shared) {
    Random random(seed_of(name()));
    x_ = random_rows(random, rows(), shape_.in);
    for (size_t t = 0; t < shape_.outs.size(); ++t) {
      const int out = shape_.outs[t];
      y_.push_back(random_rows(random, rows(), out));
      std::vector<std::optional<HostEntry>>& table = tables_.emplace_back();
      for (size_t s = 0; s < slots.size(); ++s) {
        table.emplace_back();
        if ((s + t) % 3 != 2) table.back() = random_entry(random, slots[s], shape_.in, out);
      }
      if (bias) bias_.push_back(random.normals(size_t(out), 1));
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = int(shape_.slot.size()), .slot = shape_.slot, .logit_rows = shape_.logit_rows});
    std::vector<Uploaded> uploaded;
    std::vector<Tensor> y, held, biases;
    for (size_t t = 0; t < y_.size(); ++t) {
      uploaded.push_back(upload(backend, tables_[t], shape_.in, shape_.outs[t], LowRankUse::linear));
      y.push_back(backend.upload(y_[t].values, rows(), shape_.outs[t]));
      if (!bias_.empty()) biases.push_back(backend.upload(bias_[t], 1, shape_.outs[t]));
    }
    if (shared_) held = y;
    std::vector<LoraModule> modules;
    std::vector<const Uploaded*> tables;
    for (size_t t = 0; t < y.size(); ++t) {
      tables.push_back(&uploaded[t]);
      // Where every row brings its own weight, the product is not there yet.
      const bool replaced = replaces(t);
      if (replaced) y[t] = {};
      modules.push_back({.site = int(t), .bias = bias_.empty() ? nullptr : &biases[t], .replaced = replaced});
    }
    const BoundSlots bound(backend, tables);
    const Tensor x = backend.upload(x_.values, rows(), shape_.in);
    const RowSet set = shape_.logit_rows.empty() ? RowSet::all : RowSet::logit_rows;
    eagerly(backend, [&] { backend.stream().ops().lora(x, set, modules, y); });
    std::vector<Output> outputs;
    for (const Tensor& t : y) outputs.push_back(read_output(backend, "y", t));
    for (const Tensor& t : held) outputs.push_back(read_output(backend, "the other handle on y", t));
    return outputs;
  }

  /// Rows that have nothing to do must not move at all. Else a product by the slot's own weight, two nested sums per
  /// term (of `in` and of `rank` products), then a product and a sum for each term, the factor and the bias.
  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds;
    for (size_t t = 0; t < y_.size(); ++t) {
      const size_t out = size_t(shape_.outs[t]);
      std::vector<double> bound(reference[t].values.size(), 0);
      for (int r = 0; r < rows(); ++r) {
        const HostEntry* e = entry(t, r);
        for (size_t n = 0; n < out; ++n) {
          const size_t at = size_t(r) * out + n;
          const bool biased = !bias_.empty() || (e != nullptr && !e->bias.empty());
          if (e == nullptr && !biased) continue;
          double error = 0, size = std::abs(double(y_[t].values[at]));
          if (e != nullptr) error = entry_error(*e, r, n, precision, size);
          const double f = e == nullptr || e->dora_scale.empty() ? 1 : std::abs(double(e->dora_scale[n]));
          const double b = !biased ? 0 : std::abs(double(e != nullptr && !e->bias.empty() ? e->bias[n] : bias_[t][n]));
          bound[at] =
              f * error + 2 * kRoundF32 * (f * size + b) + 2 * kRoundF32 * std::abs(double(reference[t].values[at]));
        }
      }
      bounds.push_back(std::move(bound));
    }
    if (shared_) {
      for (const HostMatrix& y : y_) bounds.emplace_back(y.values.size(), 0);
    }
    return bounds;
  }

 private:
  int rows() const { return int(shape_.logit_rows.empty() ? shape_.slot.size() : shape_.logit_rows.size()); }

  bool replaces(size_t t) const {
    bool all = !shared_;
    for (int r = 0; r < rows(); ++r) {
      const HostEntry* e = entry(t, r);
      all = all && e != nullptr && e->weight;
    }
    return all;
  }

  const HostEntry* entry(size_t t, int r) const {
    const int32_t slot = shape_.slot[shape_.logit_rows.empty() ? size_t(r) : size_t(shape_.logit_rows[size_t(r)])];
    if (slot < 0 || size_t(slot) >= tables_[t].size() || !tables_[t][size_t(slot)]) return nullptr;
    return &*tables_[t][size_t(slot)];
  }

  /// Adds what the entry contributes to `size`, the sum of magnitudes, and returns the error of that sum.
  double entry_error(const HostEntry& e, int r, size_t n, const Precision& precision, double& size) const {
    const size_t in = size_t(shape_.in);
    double error = 0;
    if (e.weight) {
      size = 0;
      for (size_t k = 0; k < in; ++k)
        size += std::abs(double(x_.row(r)[k]) * double(load_float(e.weight->codes, DType::f32, n * in + k)));
      error += (sum_error(shape_.in) + 8 * kRoundF32) * size;
    }
    for (const HostTerm& term : e.terms) {
      double magnitude = 0;
      for (size_t i = 0; i < size_t(term.rank); ++i) {
        double inner = 0;
        for (size_t k = 0; k < in; ++k) inner += std::abs(double(x_.row(r)[k]) * double(term.a[i * in + k]));
        magnitude += inner * std::abs(double(term.b[n * size_t(term.rank) + i]));
      }
      const double inner_bias = term.bias.empty() ? 0 : std::abs(double(term.bias[n]));
      error += double(term.scale) *
               ((sum_error(shape_.in) + sum_error(term.rank + 1, 4) + factor_error(precision)) * magnitude +
                sum_error(term.rank + 1, 4) * inner_bias);
      size += double(term.scale) * (magnitude + inner_bias);
      error += 2 * kRoundF32 * size;
    }
    return error;
  }

  Shape shape_;
  bool shared_;
  HostMatrix x_;
  std::vector<HostMatrix> y_;
  std::vector<std::vector<std::optional<HostEntry>>> tables_;  // by module, by slot
  std::vector<std::vector<float>> bias_;                       // by module, or none
};

class LoraEmbedCase final : public OpCase {
 public:
  LoraEmbedCase(const std::string& variant, int vocab, int dims, const std::vector<Parts>& slots, bool by_token)
      : OpCase("lora_embed", variant), vocab_(vocab), dims_(dims), by_token_(by_token) {
    Random random(seed_of(name()));
    for (const Parts& parts : slots) {
      HostEntry entry = random_entry(random, parts, vocab, dims);
      for (HostTerm& term : entry.terms) term.a = random.normals(size_t(term.rank) * size_t(vocab), 1);
      if (parts.dora_scale && by_token) entry.dora_scale = random.normals(size_t(vocab), 1);
      if (parts.weight) entry.weight = testing_support::random_dense(random, vocab, dims, DType::bf16, 1);
      entries_.emplace_back(std::move(entry));
    }
    for (int r = 0; r < 9; ++r) {
      tokens_.push_back(random.integer(0, vocab - 1));
      slot_.push_back(r % (int(slots.size()) + 2) - 1);  // none, each, and one past the table
    }
    tokens_[1] = vocab - 1;
    tokens_[2] = 0;
    y_ = random_rows(random, int(tokens_.size()), dims);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = y_.rows, .tokens = tokens_, .slot = slot_});
    const Uploaded uploaded = upload(backend, entries_, vocab_, dims_, LowRankUse::embedding);
    for (const auto& entry : uploaded.slots) entry->dora_scale_by_token = by_token_;
    const BoundSlots bound(backend, {&uploaded});
    Tensor y = backend.upload(y_.values, y_.rows, dims_);
    eagerly(backend, [&] { backend.stream().ops().lora_embed(0, y); });
    return {read_output(backend, "y", y)};
  }

  /// As for a linear, but A x is a column of A, which is no sum.
  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    std::vector<double> bound(reference[0].values.size(), 0);
    for (int r = 0; r < y_.rows; ++r) {
      const int32_t slot = slot_[size_t(r)];
      if (slot < 0 || size_t(slot) >= entries_.size()) continue;
      const HostEntry& e = *entries_[size_t(slot)];
      const size_t token = size_t(tokens_[size_t(r)]);
      for (size_t n = 0; n < size_t(dims_); ++n) {
        const size_t at = size_t(r) * size_t(dims_) + n;
        double error = 0, size = std::abs(double(y_.values[at]));
        if (e.weight) size = std::abs(double(load_float(e.weight->codes, DType::bf16, token * size_t(dims_) + n)));
        for (const HostTerm& t : e.terms) {
          double magnitude = 0;
          for (size_t i = 0; i < size_t(t.rank); ++i)
            magnitude += std::abs(double(t.a[i * size_t(vocab_) + token]) * double(t.b[n * size_t(t.rank) + i]));
          if (!t.bias.empty()) magnitude += std::abs(double(t.bias[n]));
          error += double(t.scale) * (sum_error(t.rank + 1, 4) + factor_error(precision)) * magnitude;
          size += double(t.scale) * magnitude;
          error += 2 * kRoundF32 * size;
        }
        const double f = e.dora_scale.empty() ? 1 : std::abs(double(e.dora_scale[by_token_ ? token : n]));
        bound[at] = f * (error + kRoundF32 * size) + kRoundF32 * std::abs(double(reference[0].values[at]));
      }
    }
    return {bound};
  }

 private:
  int vocab_, dims_;
  bool by_token_;
  std::vector<std::optional<HostEntry>> entries_;
  std::vector<int32_t> tokens_, slot_;
  HostMatrix y_;
};

class LoraNormCase final : public OpCase {
 public:
  /// `normed`: features of a run that the norm covers; 0: all.
  LoraNormCase(const std::string& variant, int cols, int width, std::vector<int32_t> logit_rows, int normed = 0)
      : OpCase("lora_norm", variant),
        width_(width),
        normed_(normed > 0 ? normed : width),
        logit_rows_(std::move(logit_rows)) {
    Random random(seed_of(name()));
    x_ = random_rows(random, logit_rows_.empty() ? int(slot_.size()) : int(logit_rows_.size()), cols);
    for (std::vector<float>& weight : weights_) weight = random.normals(size_t(normed_), 1);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = int(slot_.size()), .slot = slot_, .logit_rows = logit_rows_});
    Uploaded uploaded;
    for (int s = 0; s < 3; ++s) uploaded.slots.push_back(s == 1 ? nullptr : std::make_unique<LoraEntry>());
    uploaded.slots[0]->norm = backend.upload(weights_[1], 1, normed_);
    uploaded.slots[2]->norm = backend.upload(weights_[2], 1, normed_);
    const BoundSlots bound(backend, {&uploaded});
    const NormParams norm{backend.upload(weights_[0], 1, normed_), 1e-5f};
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    Tensor y;
    eagerly(backend, [&] {
      y = backend.stream().ops().lora_norm(x, logit_rows_.empty() ? RowSet::all : RowSet::logit_rows, width_, norm, 0);
    });
    return {read_output(backend, "y", y)};
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<double> bound;
    for (size_t i = 0; i < reference[0].values.size(); ++i) {
      const bool stays = int(i % size_t(width_)) >= normed_;
      bound.push_back(stays ? 0 : (sum_error(normed_) / 2 + 8 * kRoundF32) * std::abs(double(reference[0].values[i])));
    }
    return {bound};
  }

  std::optional<bumblebee::Operation> needs() const override {
    return normed_ < width_ ? std::optional(bumblebee::Operation::latent_keys) : std::nullopt;
  }

 private:
  int width_, normed_;
  std::vector<int32_t> slot_ = {0, 2, 2, -1, 1, 7, 0}, logit_rows_;
  HostMatrix x_;
  std::vector<float> weights_[3];
};

}  // namespace

void add_lora(Cases& cases) {
  const auto add = [&](const std::string& variant, const Shape& shape, const std::vector<Parts>& slots,
                       bool bias = false, bool shared = false) {
    cases.push_back(std::make_unique<LoraCase>(variant, shape, slots, bias, shared));
  };
  add("one_row", {64, {33}, {0}, {}}, {{.ranks = {8}}});
  add("nobody", {64, {33}, {-1, -1, -1}, {}}, {{.ranks = {8}}}, false, true);
  add("rank1", {64, {1}, {0, -1, 0}, {}}, {{.ranks = {1}}});
  add("odd_sizes", {37, {17}, {0, 1, 1, -1, 0}, {}}, {{.ranks = {3}}, {.ranks = {5}}});
  const std::vector<Parts> ranks = {{.ranks = {8}}, {.ranks = {16}}, {.ranks = {4}}, {.ranks = {64}}};
  add("mixed", {128, {64, 16, 16}, {-1, 0, 0, 1, 2, 3, 3, -1, 1}, {}}, ranks);
  add("mixed_shared", {128, {64, 16, 16}, {3, 2, 1, 0, -1}, {}}, ranks, false, true);
  add("slot_past_the_table", {64, {20}, {0, 7, -1}, {}}, {{.ranks = {8}}});
  add("logit_rows", {64, {20}, {0, 1, -1, 1, 1, 0}, {1, 2, 4, 5}}, {{.ranks = {8}}, {.ranks = {3}}});
  add("many_rows",
      {256,
       {96},
       {0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, 1, 1, 0, 0, 1, 0, 1, 0, -1, 0, 1, 1, 1, 1, 0, 0},
       {}},
      {{.ranks = {16}}, {.ranks = {8}}});
  std::vector<int32_t> turns, runs;  // more rows than a card takes as generated ones
  for (int row = 0; row < 70; ++row) {
    turns.push_back(row % 5 - 1);
    runs.push_back(row / 23);
  }
  const std::vector<Parts> prompt = {{.ranks = {17}}, {.ranks = {8, 3}, .inner_bias = true}, {.ranks = {40}}};
  add("prompt", {1040, {272, 48, 8}, turns, {}}, prompt);
  add("prompt_with_bias", {1040, {272, 40}, turns, {}}, prompt, true);
  add("prompt_in_runs", {64, {32, 600}, runs, {}}, prompt);
  add("long_run", {1100, {272, 48}, std::vector<int32_t>(67, 0), {}}, {{.ranks = {17}}});
  for (const int rank : {1, 2, 3, 7, 8, 16, 31, 32, 64, 100, 128, 256}) {
    add("rank" + std::to_string(rank) + "_of_2080", {2080, {80}, {0, -1, 0, 0}, {}}, {{.ranks = {rank}}});
  }
  add("terms", {96, {40, 24}, {0, 1, 1, -1, 0, 0, 0}, {}}, {{.ranks = {8, 3, 16}}, {.ranks = {1, 1}}});
  add("inner_bias", {96, {40}, {0, 0, 1, -1}, {}},
      {{.ranks = {8}, .inner_bias = true}, {.ranks = {4, 2}, .inner_bias = true}});
  const std::vector<Parts> everything = {{.ranks = {8}, .dora_scale = true},
                                         {.ranks = {5, 2}, .inner_bias = true, .dora_scale = true, .bias = true},
                                         {.bias = true},
                                         {.weight = true},
                                         {.ranks = {4}, .weight = true},
                                         {.ranks = {3}, .dora_scale = true, .bias = true, .weight = true},
                                         {.ranks = {9}}};
  for (const bool bias : {false, true}) {
    const std::string with = bias ? "_with_bias" : "";
    add("everything" + with, {80, {48, 17}, {0, 1, 1, 2, 3, 3, 3, -1, 4, 5, 6, 6, 0}, {}}, everything, bias);
    add("everything_logit_rows" + with, {80, {48}, {0, 1, 1, 2, 3, 3, 3, -1, 4, 5, 6, 6, 0}, {0, 2, 4, 7, 8, 11, 12}},
        everything, bias, true);
    std::vector<int32_t> crowd;
    for (int row = 0; row < 45; ++row) crowd.push_back(row % 8 - 1);
    add("prompt_of_everything" + with, {80, {48, 24}, crowd, {}}, everything, bias);
    add("dora_one_row" + with, {64, {33}, {0}, {}}, {{.ranks = {8}, .dora_scale = true}}, bias);
  }
}

void add_lora_embed(Cases& cases) {
  const std::vector<Parts> slots = {
      {.ranks = {8}}, {.ranks = {3, 1}}, {.weight = true}, {.ranks = {5}, .dora_scale = true}};
  cases.push_back(std::make_unique<LoraEmbedCase>("by_feature", 40, 33, slots, false));
  cases.push_back(std::make_unique<LoraEmbedCase>("by_token", 40, 64, slots, true));
  cases.push_back(std::make_unique<LoraEmbedCase>("inner_bias", 7, 5,
                                                  std::vector<Parts>{{.ranks = {2}, .inner_bias = true}}, false));
}

void add_lora_norm(Cases& cases) {
  cases.push_back(std::make_unique<LoraNormCase>("rows", 70, 70, std::vector<int32_t>{}));
  cases.push_back(std::make_unique<LoraNormCase>("heads", 128, 32, std::vector<int32_t>{}));
  cases.push_back(std::make_unique<LoraNormCase>("parts_of_heads", 96, 48, std::vector<int32_t>{}, 33));
  cases.push_back(std::make_unique<LoraNormCase>("logit_rows", 64, 64, std::vector<int32_t>{1, 3, 5}));
}

}  // namespace bumblebee::op_cases
