// Attention through the paged cache: several segments at different pasts over shuffled pages, every grouping of heads,
// windows, borders of pages, cached types. The past is written by earlier calls of the same operation.
#include <algorithm>
#include <cmath>

#include "quant/affine.h"
#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

struct Piece {
  int past = 0, rows = 1;
};

constexpr double kHalfWord = 0.5 / 32767 * 1.001;  // of the largest of what is rounded to words, with its own roundings

struct AttendSpec {
  int heads = 2, kv_heads = 1, head_dim = 16, window = 0, page_size = 16, layers = 1, layer = 0;
  std::vector<Piece> pieces = {{0, 1}};
  DType cached = DType::f32;
  double sharpness = 1;  // of the scores
  float soft_cap = 0;
  /// Beside layers of another shape, and read once more by a layer that shares the cache and appends nothing.
  bool mixed = false;
  bool sinks = false;
  int value_dim = 0;  // values are so many features of keys

  int values() const { return value_dim > 0 ? value_dim : head_dim; }
};

class AttendCase final : public OpCase {
 public:
  AttendCase(const std::string& variant, const AttendSpec& spec) : OpCase("attend", variant), spec_(spec) {
    Random random(seed_of(name()));
    for (const Piece& p : spec.pieces) {
      const int total = p.past + p.rows;
      q_.push_back({total, spec.heads * spec.head_dim,
                    random.normals(size_t(total) * size_t(spec.heads) * size_t(spec.head_dim), spec.sharpness)});
      k_.push_back({total, spec.kv_heads * spec.head_dim,
                    random.normals(size_t(total) * size_t(spec.kv_heads) * size_t(spec.head_dim), 1)});
      v_.push_back({total, spec.kv_heads * spec.values(),
                    random.normals(size_t(total) * size_t(spec.kv_heads) * size_t(spec.values()), 1)});
      for (int t = 0; spec.value_dim > 0 && t < total * spec.kv_heads; ++t)
        std::copy_n(k_.back().values.begin() + int64_t{t} * spec.head_dim, spec.value_dim,
                    v_.back().values.begin() + int64_t{t} * spec.value_dim);
      page_count_ += (total + spec.page_size - 1) / spec.page_size;
    }
    order_ = random.permutation(page_count_ + 2);  // two pages that nobody owns
    // Some below all scores, some above.
    for (int h = 0; h < spec.heads && spec.sinks; ++h) sinks_.push_back(float(random.normal(3)));
  }

  std::vector<Output> run(Backend& backend) const override {
    KvShape shape = {.groups = {{.kind = KvGroup::Kind::attention,
                                 .layers = spec_.layers,
                                 .kv_heads = spec_.kv_heads,
                                 .head_dim = spec_.head_dim,
                                 .window = spec_.window,
                                 .value_dim = spec_.value_dim}},
                     .page_size = spec_.page_size,
                     .pages = page_count_ + 2,
                     .dtype = spec_.cached};
    if (spec_.mixed) {
      shape.groups.insert(shape.groups.begin(), {.kind = KvGroup::Kind::attention,
                                                 .layers = 2,
                                                 .kv_heads = spec_.kv_heads + 1,
                                                 .head_dim = 2 * spec_.head_dim,
                                                 .window = 0});
      shape.places = {{0, 0}, {1, 0}, {0, 1}, {1, 0}};
    }
    const auto kv = backend.make_kv(shape);
    if (std::any_of(spec_.pieces.begin(), spec_.pieces.end(), [](const Piece& p) { return p.past > 0; }))
      step(backend, *kv, true);
    Output out = read_output(backend, "out", step(backend, *kv, false));
    if (!spec_.mixed) return {std::move(out)};
    return {std::move(out), read_output(backend, "shared", again(backend, *kv))};
  }

  /// Scores are sums of head_dim products, rounded twice more; the running softmax adds a rounding of the score's size
  /// and an exponential good to 4 roundings, twice (weight and total). An error e in every score moves the result by at
  /// most 2e·Σ p|v|. Then a sum over the visible keys. A cached type narrower than f32 moves each key and each value by
  /// its rounding, int8 by half a step of its token's scale. In fast precision tensor cores may take queries as the sum
  /// of two bf16 numbers, and probabilities as one, where the cache is bf16 or int8; or, with int8, queries are rounded
  /// to 32,767 steps of their largest feature, and the weights of a page's values to those of their largest.
  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    const bool on_tensor_cores = precision.fast && (spec_.cached == DType::bf16 || spec_.cached == DType::i8);
    const double cached = spec_.cached == DType::f16    ? testing_support::kRoundF16
                          : spec_.cached == DType::bf16 ? testing_support::kRoundBf16
                                                        : 0;
    const size_t dim = size_t(spec_.values());
    std::vector<double> bound(reference[0].values.size());
    size_t out_row = 0;
    for (size_t s = 0; s < spec_.pieces.size(); ++s) {
      const Piece& piece = spec_.pieces[s];
      for (int i = 0; i < piece.rows; ++i, ++out_row) {
        for (int h = 0; h < spec_.heads; ++h) {
          head_bound(s, piece.past + i, h, cached, on_tensor_cores,
                     std::span(bound).subspan((out_row * size_t(spec_.heads) + size_t(h)) * dim, dim));
        }
      }
    }
    for (size_t i = 0; i < bound.size(); ++i) bound[i] += kRoundF32 * std::abs(double(reference[0].values[i]));
    if (spec_.mixed) return {bound, bound};
    return {bound};
  }

  std::optional<bumblebee::Operation> needs() const override {
    if (spec_.sinks) return bumblebee::Operation::sinks;
    if (spec_.value_dim > 0) return bumblebee::Operation::latent_keys;
    if (spec_.soft_cap > 0) return bumblebee::Operation::soft_cap;
    return spec_.mixed ? std::optional(bumblebee::Operation::mixed_cache) : std::nullopt;
  }

  Cost cost() const override {
    Cost cost;
    for (const Piece& p : spec_.pieces) {
      const double seen = p.past + (p.rows + 1) / 2.0;
      cost.bytes += 2.0 * (p.past + p.rows) * spec_.kv_heads * spec_.head_dim * size_of(spec_.cached);
      cost.flops += 4.0 * p.rows * seen * spec_.heads * spec_.head_dim;
    }
    return cost;
  }

 private:
  AttentionParams params(Tensor sinks = {}) const {
    return {.heads = spec_.heads,
            .kv_heads = spec_.kv_heads,
            .head_dim = spec_.head_dim,
            .scale = float(1 / std::sqrt(double(spec_.head_dim))),
            .window = spec_.window,
            .sinks = std::move(sinks),
            .soft_cap = spec_.soft_cap,
            .value_dim = spec_.value_dim};
  }

  void head_bound(size_t s, int position, int h, double cached, bool on_tensor_cores, std::span<double> bound) const {
    const size_t dim = size_t(spec_.head_dim), group = size_t(h * spec_.kv_heads / spec_.heads) * dim;
    const int first = spec_.window > 0 ? std::max(0, position - spec_.window + 1) : 0, count = position - first + 1;
    const double queries_rounded = on_tensor_cores ? testing_support::kRoundBf16 * testing_support::kRoundBf16 : 0,
                 rounded = on_tensor_cores ? testing_support::kRoundBf16 : 0;
    std::vector<double> score(size_t(count), 0.0);
    double highest = -INFINITY, score_error = 0;
    for (int j = 0; j < count; ++j) {
      double size = 0, queries = 0, most = 0, keys = 0;
      for (size_t d = 0; d < dim; ++d) {
        queries += std::abs(double(q_[s].row(position)[size_t(h) * dim + d]));
        const double product = double(q_[s].row(position)[size_t(h) * dim + d]) *
                               double(k_[s].row(first + j)[group + d]) * double(params().scale);
        score[size_t(j)] += product;
        size += std::abs(product);
        most = std::max(most, std::abs(double(q_[s].row(position)[size_t(h) * dim + d])));
        keys += std::abs(double(k_[s].row(first + j)[group + d]));
      }
      const double stepped = stepped_key(k_[s].row(first + j) + group, q_[s].row(position) + size_t(h) * dim, queries) *
                             double(params().scale);
      const double in_words =
          on_tensor_cores && spec_.cached == DType::i8 ? kHalfWord * most * keys * double(params().scale) : 0;
      score_error =
          std::max(score_error, (sum_error(spec_.head_dim, 6) + cached + queries_rounded) * size + stepped + in_words);
      if (spec_.soft_cap > 0) {  // slopes of at most 1, and nine roundings
        score[size_t(j)] = double(spec_.soft_cap) * std::tanh(score[size_t(j)] / double(spec_.soft_cap));
        score_error += 9 * kRoundF32 * std::abs(score[size_t(j)]);
      }
      highest = std::max(highest, score[size_t(j)]);
    }
    double total = 0;
    if (spec_.sinks) {  // one more, which is what it is and needs no keys
      highest = std::max(highest, double(sinks_[size_t(h)]));
      total = std::exp(double(sinks_[size_t(h)]) - highest);
    }
    for (double& w : score) total += (w = std::exp(w - highest));
    const double error = 2 * score_error + 2 * 4 * kRoundF32 + 2 * sum_error(count + 1, 4) + cached + rounded;
    const size_t values = size_t(spec_.values()), of_group = size_t(h * spec_.kv_heads / spec_.heads) * values;
    // A weight is a probability times the scale of its value's codes, of which there are 127.
    double in_words = 0;
    if (on_tensor_cores && spec_.cached == DType::i8 && spec_.value_dim == 0) {
      for (int j = 0; j < count;) {
        double most = 0;
        const int page = (first + j) / spec_.page_size;
        int tokens = 0;
        for (; j < count && (first + j) / spec_.page_size == page; ++j, ++tokens)
          most = std::max(most,
                          score[size_t(j)] / total * 254 * half_step(v_[s].row(first + j) + of_group, spec_.values()));
        in_words += kHalfWord * most * tokens;
      }
    }
    for (size_t d = 0; d < values; ++d) {
      double size = 0, stepped = in_words;
      for (int j = 0; j < count; ++j) {
        size += score[size_t(j)] / total * std::abs(double(v_[s].row(first + j)[of_group + d]));
        stepped += score[size_t(j)] / total * half_step(v_[s].row(first + j) + of_group, spec_.values());
      }
      // Narrow subnormals round by an absolute amount.
      bound[d] = (error * size + stepped) * 1.01 + (spec_.cached == DType::f16 ? 0x1p-24 : 0);
    }
  }

  /// What rounding a key to int8 changes of its product with a query, whose features are `size` together: a key that
  /// has values within has two scales.
  double stepped_key(const float* key, const float* query, double size) const {
    if (spec_.cached != DType::i8 || spec_.value_dim == 0) return half_step(key, spec_.head_dim) * size;
    double within = 0;
    for (int d = 0; d < spec_.value_dim; ++d) within += std::abs(double(query[d]));
    return half_step(key, spec_.value_dim) * within +
           half_step(key + spec_.value_dim, spec_.head_dim - spec_.value_dim) * (size - within);
  }

  /// How far rounding to int8, where the case caches so, moves an element of this head's row.
  double half_step(const float* head, int features) const {
    if (spec_.cached != DType::i8) return 0;
    float most = 0;
    for (int d = 0; d < features; ++d) most = std::max(most, std::abs(head[d]));
    return double(most) / 254 * (1 + 256 * kRoundF32);  // 127 steps, each computed with a few roundings
  }

  /// Rows of `m` [begin, end) of every sequence, packed.
  Tensor pack(Backend& backend, const std::vector<HostMatrix>& m, bool past) const {
    std::vector<float> values;
    int rows = 0;
    for (size_t s = 0; s < m.size(); ++s) {
      const Piece& p = spec_.pieces[s];
      const int begin = past ? 0 : p.past, end = past ? p.past : p.past + p.rows;
      values.insert(values.end(), m[s].row(begin), m[s].row(end));
      rows += end - begin;
    }
    return backend.upload(values, rows, m[0].cols);
  }

  Tensor step(Backend& backend, KvStore& kv, bool past) const {
    Batch batch;
    size_t next = 0;
    for (const Piece& p : spec_.pieces) {
      const size_t pages = size_t((p.past + p.rows + spec_.page_size - 1) / spec_.page_size);
      const std::vector<int32_t> table(order_.begin() + int64_t(next), order_.begin() + int64_t(next + pages));
      next += pages;
      const int rows = past ? p.past : p.rows;
      if (rows > 0) batch.append(std::vector<int32_t>(size_t(rows), 0), past ? 0 : p.past, table, Batch::Want::none);
    }
    backend.stream().bind(batch, &kv);
    const Tensor q = pack(backend, q_, past), k = pack(backend, k_, past),
                 v = spec_.value_dim > 0 ? Tensor() : pack(backend, v_, past);
    const Tensor sinks = spec_.sinks ? backend.upload(sinks_, 1, spec_.heads) : Tensor();
    Tensor out;
    eagerly(backend, [&] {
      Ops& ops = backend.stream().ops();
      if (spec_.mixed) {  // neighbours, whose keys and values must not be seen
        const int rows = q.rows(), wide = 2 * spec_.head_dim;
        const auto filled = [&](int heads) {
          return backend.upload(std::vector<float>(size_t(rows * heads * wide), 1e4f), rows, heads * wide);
        };
        const Tensor other = filled(spec_.kv_heads + 1);
        for (const int layer : {0, 2})
          ops.attend(kv, layer, other, other, other,
                     {.heads = spec_.kv_heads + 1, .kv_heads = spec_.kv_heads + 1, .head_dim = wide});
      }
      out = ops.attend(kv, spec_.mixed ? 1 : spec_.layer, q, k, v, params(sinks));
    });
    return out;
  }

  /// The last step's queries at a layer that shares the cache: the same answers.
  Tensor again(Backend& backend, KvStore& kv) const {
    const Tensor q = pack(backend, q_, false);
    Tensor out;
    eagerly(backend, [&] { out = backend.stream().ops().attend(kv, 3, q, {}, {}, params()); });
    return out;
  }

  AttendSpec spec_;
  std::vector<HostMatrix> q_, k_, v_;  // by sequence, past rows first
  int page_count_ = 0;
  std::vector<int32_t> order_;
  std::vector<float> sinks_;
};

}  // namespace

void add_attend(Cases& cases) {
  const auto add = [&](const std::string& variant, const AttendSpec& spec) {
    cases.push_back(std::make_unique<AttendCase>(variant, spec));
  };
  add("first_token", {});
  for (const int rows : {1, 2, 15, 16, 17, 31, 33, 48}) add("rows" + std::to_string(rows), {.pieces = {{0, rows}}});
  for (const int past : {1, 15, 16, 17, 31, 32, 33, 100}) {
    add("past" + std::to_string(past) + "_row1", {.heads = 4, .kv_heads = 2, .pieces = {{past, 1}}});
    add("past" + std::to_string(past) + "_row5", {.heads = 4, .kv_heads = 2, .pieces = {{past, 5}}});
  }
  for (const auto& [heads, kv_heads] :
       {std::pair(1, 1), {4, 4}, {4, 1}, {6, 2}, {9, 3}, {8, 1}, {7, 7}, {14, 2}, {40, 1}}) {
    add("heads" + std::to_string(heads) + "_" + std::to_string(kv_heads),
        {.heads = heads, .kv_heads = kv_heads, .pieces = {{20, 3}, {0, 2}}});
  }
  for (const int dim : {2, 8, 18, 32, 64, 80, 96, 128, 256, 300, 512})
    add("dim" + std::to_string(dim), {.heads = 4, .kv_heads = 2, .head_dim = dim, .pieces = {{18, 4}}});
  for (const int window : {1, 2, 5, 15, 16, 17, 33, 1000}) {
    add("window" + std::to_string(window),
        {.heads = 4, .kv_heads = 2, .window = window, .pieces = {{0, 40}, {37, 3}, {16, 1}}});
  }
  add("segments",
      {.heads = 4, .kv_heads = 2, .pieces = {{0, 7}, {33, 1}, {16, 16}, {0, 1}, {5, 12}, {64, 1}, {15, 1}}});
  add("page64", {.heads = 4, .kv_heads = 2, .page_size = 64, .pieces = {{60, 10}, {0, 64}, {64, 1}}});
  add("second_layer", {.heads = 4, .kv_heads = 2, .layers = 3, .layer = 1, .pieces = {{10, 3}, {17, 1}}});
  add("sharp", {.heads = 4, .kv_heads = 2, .head_dim = 64, .pieces = {{40, 8}}, .sharpness = 12});
  for (const DType cached : {DType::f16, DType::bf16, DType::i8}) {
    add("cached_" + std::string(to_string(cached)),
        {.heads = 4, .kv_heads = 2, .head_dim = 32, .pieces = {{40, 8}, {0, 17}, {31, 1}}, .cached = cached});
    add("cached_" + std::string(to_string(cached)) + "_window", {.heads = 6,
                                                                 .kv_heads = 2,
                                                                 .head_dim = 18,
                                                                 .window = 9,
                                                                 .pieces = {{40, 8}, {0, 17}, {31, 1}},
                                                                 .cached = cached});
  }
  // Many rows: keys are widened once for all of them. Few rows, far on: spans are computed apart.
  for (const DType cached : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
    const std::string type(to_string(cached));
    add("wide_" + type, {.heads = 6, .kv_heads = 2, .head_dim = 80, .pieces = {{5, 50}}, .cached = cached});
    add("spans_" + type,
        {.heads = 4, .kv_heads = 2, .head_dim = 32, .page_size = 64, .pieces = {{1500, 1}}, .cached = cached});
  }
  // Few rows, which tensor cores take too: tiles of 16 tokens, up to four heads that share keys, and pasts of more
  // tiles than there are strands.
  for (const DType cached : {DType::bf16, DType::i8}) {
    const std::string type(to_string(cached));
    const auto few = [&](const std::string& what, AttendSpec spec) {
      spec.cached = cached;
      add("few_" + what + "_" + type, spec);
    };
    for (const int dim : {64, 128}) {
      const std::vector<Piece> pieces = {{1100, 1}, {0, 1}, {15, 1}, {16, 1}, {200, 2}};
      few("dim" + std::to_string(dim), {.heads = 4, .head_dim = dim, .page_size = 64, .pieces = pieces});
    }
    for (const auto& [heads, kv_heads] : {std::pair(1, 1), {5, 1}, {6, 3}, {14, 2}})
      few("heads" + std::to_string(heads) + "_" + std::to_string(kv_heads),
          {.heads = heads, .kv_heads = kv_heads, .head_dim = 64, .page_size = 32, .pieces = {{70, 1}, {33, 2}}});
    for (const int window : {1, 16, 100})
      few("window" + std::to_string(window),
          {.heads = 4, .kv_heads = 1, .head_dim = 64, .window = window, .pieces = {{1200, 1}, {31, 1}}});
    few("sharp", {.heads = 2, .head_dim = 128, .pieces = {{300, 1}, {7, 3}}, .sharpness = 12});
    few("sinks", {.heads = 6, .head_dim = 64, .pieces = {{500, 1}, {31, 1}}, .sinks = true});
  }
  // Latents: values are a part of keys.
  add("latent", {.heads = 6, .head_dim = 24, .pieces = {{20, 3}, {0, 2}}, .value_dim = 16});
  add("latent_first_token", {.heads = 2, .head_dim = 6, .value_dim = 4});
  for (const int rows : {1, 15, 17, 40})
    add("latent_rows" + std::to_string(rows),
        {.heads = 5, .head_dim = 40, .pieces = {{0, rows}, {33, 1}, {16, rows}}, .value_dim = 33});
  for (const int dim : {7, 80, 160, 576, 1088})
    add("latent_dim" + std::to_string(dim), {.heads = 3, .head_dim = dim, .pieces = {{18, 4}}, .value_dim = dim - 5});
  add("latent_all", {.heads = 4, .head_dim = 32, .pieces = {{18, 4}}, .value_dim = 32});
  add("latent_two_heads", {.heads = 6, .kv_heads = 2, .head_dim = 48, .pieces = {{18, 4}, {0, 20}}, .value_dim = 32});
  add("latent_window",
      {.heads = 4, .head_dim = 48, .window = 9, .pieces = {{0, 40}, {37, 3}, {16, 1}}, .value_dim = 32});
  add("latent_many_heads", {.heads = 128, .head_dim = 48, .pieces = {{18, 3}}, .value_dim = 32});
  add("latent_sharp", {.heads = 4, .head_dim = 80, .pieces = {{40, 8}}, .sharpness = 12, .value_dim = 64});
  add("latent_second_layer",
      {.heads = 4, .head_dim = 48, .layers = 3, .layer = 1, .pieces = {{10, 3}, {17, 1}}, .value_dim = 32});
  for (const DType cached : {DType::f16, DType::bf16, DType::i8}) {
    const std::string type(to_string(cached));
    add("latent_" + type,
        {.heads = 5, .head_dim = 50, .pieces = {{40, 8}, {0, 17}, {31, 1}}, .cached = cached, .value_dim = 41});
    add("latent_" + type + "_spans",
        {.heads = 6, .head_dim = 40, .page_size = 64, .pieces = {{1500, 1}}, .cached = cached, .value_dim = 33});
  }
  // Several rows of a sequence in a step of many, which tensor cores take: tiles that are full, one row over and one
  // below, beside rows that are alone; pages that are half full; windows that end within a tile.
  for (const DType cached : {DType::bf16, DType::i8}) {
    const std::string type(to_string(cached));
    const auto tiles = [&](const std::string& what, AttendSpec spec) {
      spec.cached = cached;
      add("tiles_" + what + "_" + type, spec);
    };
    const std::vector<Piece> mixed = {{0, 33}, {100, 1}, {5, 31}, {63, 65}, {64, 2}, {7, 1}, {0, 32}};
    tiles("mixed", {.heads = 8, .kv_heads = 2, .head_dim = 64, .pieces = mixed});
    tiles("long", {.heads = 4, .kv_heads = 2, .head_dim = 32, .page_size = 64, .pieces = {{1500, 40}, {0, 3}}});
    tiles("sharp", {.heads = 4, .kv_heads = 4, .head_dim = 128, .pieces = {{70, 130}}, .sharpness = 12});
    tiles("second_layer", {.heads = 4, .kv_heads = 2, .layers = 3, .layer = 1, .pieces = {{10, 35}, {17, 1}}});
    for (const int dim : {16, 18, 24, 80, 96, 128, 144, 256})
      tiles("dim" + std::to_string(dim), {.heads = 6, .kv_heads = 2, .head_dim = dim, .pieces = {{30, 45}}});
    for (const int window : {1, 5, 64, 100})
      tiles("window" + std::to_string(window),
            {.heads = 4, .kv_heads = 1, .head_dim = 64, .window = window, .pieces = {{0, 90}, {130, 40}, {77, 1}}});
    for (const auto& [heads, kv_heads] : {std::pair(1, 1), {9, 3}, {14, 2}, {40, 1}})
      tiles("heads" + std::to_string(heads) + "_" + std::to_string(kv_heads),
            {.heads = heads, .kv_heads = kv_heads, .head_dim = 32, .pieces = {{20, 30}, {0, 9}}});
    for (const int dim : {64, 256})
      tiles("soft_cap_dim" + std::to_string(dim), {.heads = 4,
                                                   .kv_heads = 2,
                                                   .head_dim = dim,
                                                   .window = 50,
                                                   .pieces = {{0, 33}, {70, 20}, {31, 1}},
                                                   .sharpness = 8,
                                                   .soft_cap = 5});
    for (const double sharpness : {1.0, 8.0})
      tiles(cat("sinks", sharpness), {.heads = 8,
                                      .kv_heads = 2,
                                      .head_dim = 64,
                                      .window = 40,
                                      .pieces = {{0, 33}, {70, 20}, {31, 1}},
                                      .sharpness = sharpness,
                                      .sinks = true});
    tiles("beside_others",
          {.heads = 4, .kv_heads = 2, .head_dim = 64, .window = 20, .pieces = {{0, 40}, {31, 1}}, .mixed = true});
    tiles("dim512", {.heads = 4, .kv_heads = 2, .head_dim = 512, .pieces = {{20, 40}, {31, 1}}});
    add("latent_dim576_" + type,
        {.heads = 20, .head_dim = 576, .pieces = {{40, 33}}, .cached = cached, .value_dim = 512});
  }
  for (const DType cached : {DType::f32, DType::bf16, DType::i8}) {
    add("mixed_" + std::string(to_string(cached)), {.heads = 4,
                                                    .kv_heads = 2,
                                                    .head_dim = 32,
                                                    .window = 20,
                                                    .pieces = {{40, 8}, {0, 17}, {31, 1}},
                                                    .cached = cached,
                                                    .mixed = true});
    add("mixed_wide_" + std::string(to_string(cached)), {.heads = 4,
                                                         .kv_heads = 1,
                                                         .head_dim = 256,
                                                         .pieces = {{40, 8}, {0, 17}, {31, 1}},
                                                         .cached = cached,
                                                         .mixed = true});
  }
  for (const DType cached : {DType::f32, DType::bf16, DType::i8}) {
    add("soft_cap_" + std::string(to_string(cached)), {.heads = 4,
                                                       .kv_heads = 2,
                                                       .head_dim = 64,
                                                       .window = 33,
                                                       .pieces = {{40, 8}, {0, 17}, {31, 1}},
                                                       .cached = cached,
                                                       .sharpness = 8,
                                                       .soft_cap = 5});
    const std::string type(to_string(cached));
    const std::vector<Piece> pieces = {{40, 8}, {0, 17}, {31, 1}};
    add("sinks_" + type,
        {.heads = 8, .kv_heads = 2, .head_dim = 32, .pieces = pieces, .cached = cached, .sinks = true});
    add("sinks_window_" + type,
        {.heads = 8, .kv_heads = 1, .head_dim = 64, .window = 9, .pieces = pieces, .cached = cached, .sinks = true});
  }
  add("sinks_sharp", {.heads = 4, .kv_heads = 2, .head_dim = 64, .pieces = {{40, 8}}, .sharpness = 12, .sinks = true});
  add("sinks_spans", {.heads = 4, .kv_heads = 2, .page_size = 64, .pieces = {{1500, 3}, {511, 1}}, .sinks = true});
  add("spans_window", {.heads = 4, .kv_heads = 2, .window = 600, .page_size = 64, .pieces = {{1500, 3}, {511, 1}}});
  add("long", {.heads = 8, .kv_heads = 2, .head_dim = 64, .page_size = 64, .pieces = {{700, 33}, {400, 1}}});
}

}  // namespace bumblebee::op_cases
