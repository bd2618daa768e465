// Head norms and rotation: with and without norms, every head width, positions far apart, a part of the head, shared
// handles.
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

struct RopeSpec {
  int heads = 1, kv_heads = 1, head_dim = 16;
  int dims = 0;  // 0: the whole head
  bool norms = false, shared = false, only_q = false;
  float attention_factor = 1;
  float growth = 0;         // of queries, every 8 positions
  int stretched_from = -1;  // the first row of another sequence, which is
  /// Where the rotation begins, in pairs of neighbours, after the features that the norm of keys covers.
  int first = 0;
  bool interleaved = false;
  std::vector<int32_t> positions = {0};
};

class NormRopeCase final : public OpCase {
 public:
  NormRopeCase(const std::string& variant, const RopeSpec& spec) : OpCase("norm_rope", variant), spec_(spec) {
    Random random(seed_of(name()));
    const int rows = int(spec.positions.size());
    q_ = random_rows(random, rows, spec.heads * spec.head_dim);
    k_ = random_rows(random, rows, spec.kv_heads * spec.head_dim);
    q_norm_ = random.normals(size_t(spec.head_dim), 1);
    k_norm_ = random.normals(size_t(normed()), 1);
    rope_.dims = spec.dims > 0 ? spec.dims : spec.head_dim;
    rope_.attention_factor = spec.attention_factor;
    rope_.first = spec.first;
    rope_.interleaved = spec.interleaved;
    for (int i = 0; i < rope_.dims; i += 2) rope_.inv_freq.push_back(float(std::pow(10000.0, -double(i) / rope_.dims)));
    rope_.query_growth = spec.growth;
    rope_.query_span = 8;
    for (size_t i = 0; i < rope_.inv_freq.size() && spec.stretched_from > 0; ++i)
      rope_.long_inv_freq.push_back(rope_.inv_freq[i] / float(i + 2));
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = q_.rows, .positions = spec_.positions, .stretched_from = spec_.stretched_from});
    const NormParams q_norm{backend.upload(q_norm_, 1, spec_.head_dim), 1e-6f},
        k_norm{backend.upload(k_norm_, 1, normed()), 1e-6f};
    Tensor q = backend.upload(q_.values, q_.rows, q_.cols),
           k = spec_.only_q ? Tensor() : backend.upload(k_.values, k_.rows, k_.cols);
    const Tensor held_q = spec_.shared ? q : Tensor(), held_k = spec_.shared ? k : Tensor();
    eagerly(backend, [&] {
      backend.stream().ops().norm_rope(q, k, spec_.head_dim, spec_.norms && spec_.first == 0 ? &q_norm : nullptr,
                                       spec_.norms ? &k_norm : nullptr, rope_);
    });
    std::vector<Output> outputs = {read_output(backend, "q", q), read_output(backend, "k", k)};
    if (spec_.shared) {
      outputs.push_back(read_output(backend, "the other handle on q", held_q));
      outputs.push_back(read_output(backend, "the other handle on k", held_k));
    }
    return outputs;
  }

  std::optional<bumblebee::Operation> needs() const override {
    if (spec_.growth != 0) return bumblebee::Operation::query_growth;
    if (spec_.stretched_from > 0) return bumblebee::Operation::long_rope;
    if (spec_.first > 0) return bumblebee::Operation::latent_keys;
    if (spec_.interleaved) return bumblebee::Operation::rope_pairs;
    return spec_.only_q ? std::optional(bumblebee::Operation::mixed_cache) : std::nullopt;
  }

  /// a·cos - b·sin: cos and sin, times the attention factor, are each a rounding off (two for a library's f32 sine);
  /// two products and a difference. The angle itself is the same f32 product everywhere. A norm before that moves a and
  /// b relatively. What queries are multiplied by is a rounding off, and so is that product.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>&) const override {
    std::vector<std::vector<double>> bounds = {
        rotated(q_, q_norm_, spec_.norms && spec_.first == 0 ? spec_.head_dim : 0, true),
        spec_.only_q ? std::vector<double>() : rotated(k_, k_norm_, spec_.norms ? normed() : 0, false)};
    if (spec_.shared) {
      bounds.emplace_back(q_.values.size(), 0);
      bounds.emplace_back(k_.values.size(), 0);
    }
    return bounds;
  }

 private:
  int normed() const { return spec_.first > 0 ? spec_.first : spec_.head_dim; }

  /// `width`: features that the norm covers.
  std::vector<double> rotated(const HostMatrix& x, const std::vector<float>& norm, int width, bool queries) const {
    const bool grows = queries && spec_.growth != 0;
    const double error = (width > 0 ? sum_error(width) / 2 + 8 * kRoundF32 : 0) + (grows ? 8 : 6) * kRoundF32;
    const size_t dim = size_t(spec_.head_dim), half = rope_.inv_freq.size(), begin = size_t(spec_.first);
    std::vector<double> bound(x.values.size());
    std::vector<double> head(dim);
    for (size_t first = 0; first < bound.size(); first += dim) {
      double squares = 0;
      for (size_t i = 0; i < size_t(width); ++i) squares += double(x.values[first + i]) * double(x.values[first + i]);
      const double inverse = 1 / std::sqrt(squares / std::max(1, width) + 1e-6);
      for (size_t i = 0; i < dim; ++i)
        head[i] = std::abs(double(x.values[first + i])) * (i < size_t(width) ? inverse * std::abs(double(norm[i])) : 1);
      for (size_t i = 0; i < dim; ++i) {
        const size_t at = i - begin;  // among what is rotated
        const size_t other = begin + (rope_.interleaved ? at ^ 1 : at < half ? at + half : at - half);
        const bool turned = i >= begin && at < 2 * half;
        const double size = turned ? (head[i] + head[other]) * double(rope_.attention_factor) : head[i];
        const int32_t position = spec_.positions[first / size_t(x.cols)];
        bound[first + i] = error * size * (grows ? double(rope_.query_factor(position)) : 1);
      }
    }
    return bound;
  }

  RopeSpec spec_;
  HostMatrix q_, k_;
  std::vector<float> q_norm_, k_norm_;
  RopeParams rope_;
};

}  // namespace

void add_norm_rope(Cases& cases) {
  const auto add = [&](const std::string& variant, const RopeSpec& spec) {
    cases.push_back(std::make_unique<NormRopeCase>(variant, spec));
  };
  for (const bool norms : {false, true}) {
    const std::string suffix = norms ? "_norms" : "";
    for (const int dim : {2, 4, 6, 16, 18, 32, 34, 64, 80, 128, 256, 512}) {
      add("dim" + std::to_string(dim) + suffix,
          {.heads = 3, .kv_heads = 1, .head_dim = dim, .norms = norms, .positions = {0, 1, 7, 100}});
    }
    add("far" + suffix,
        {.heads = 4, .kv_heads = 2, .head_dim = 64, .norms = norms, .positions = {131071, 0, 40000, 5, 5, 1000000}});
    add("shared" + suffix,
        {.heads = 4, .kv_heads = 2, .head_dim = 16, .norms = norms, .shared = true, .positions = {3, 4, 5}});
    add("attention_factor" + suffix, {.heads = 2,
                                      .kv_heads = 2,
                                      .head_dim = 32,
                                      .norms = norms,
                                      .attention_factor = 1.1386294f,
                                      .positions = {9, 10}});
    add("part_of_head" + suffix,
        {.heads = 2, .kv_heads = 1, .head_dim = 32, .dims = 16, .norms = norms, .positions = {9, 10, 11}});
    add("interleaved" + suffix,
        {.heads = 2, .kv_heads = 1, .head_dim = 34, .norms = norms, .interleaved = true, .positions = {9, 10, 11}});
    for (const bool interleaved : {false, true})
      add((interleaved ? "pairs_at_end_of_head" : "end_of_head") + suffix, {.heads = 5,
                                                                            .kv_heads = 2,
                                                                            .head_dim = 80,
                                                                            .dims = 32,
                                                                            .norms = norms,
                                                                            .attention_factor = 1.2f,
                                                                            .first = 48,
                                                                            .interleaved = interleaved,
                                                                            .positions = {9, 100, 4000}});
    add("without_keys" + suffix,
        {.heads = 3, .kv_heads = 1, .head_dim = 64, .norms = norms, .only_q = true, .positions = {9, 10, 11}});
    add("growing" + suffix, {.heads = 3,
                             .kv_heads = 1,
                             .head_dim = 34,
                             .norms = norms,
                             .growth = 0.3f,
                             .positions = {0, 7, 8, 15, 16, 4000}});
    add("stretched" + suffix, {.heads = 3,
                               .kv_heads = 2,
                               .head_dim = 32,
                               .norms = norms,
                               .stretched_from = 2,
                               .positions = {9, 10, 9, 10, 11}});
    std::vector<int32_t> many(33);
    for (int i = 0; i < 33; ++i) many[size_t(i)] = i * 3;
    add("many_rows" + suffix, {.heads = 16, .kv_heads = 4, .head_dim = 128, .norms = norms, .positions = many});
  }
}

}  // namespace bumblebee::op_cases
