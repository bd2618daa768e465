// Choosing tokens. Everything is exact: ids, and the bits of logprobs.
#include <bit>
#include <cmath>
#include <limits>

#include "backend/sample.h"
#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
using Mode = SampleRow::Mode;

/// The bits of doubles as numbers that f32 holds exactly.
std::vector<float> in_pieces(const std::vector<double>& values) {
  std::vector<float> pieces;
  for (const double v : values) {
    const auto bits = std::bit_cast<uint64_t>(v);
    for (int shift = 48; shift >= 0; shift -= 16) pieces.push_back(float(bits >> shift & 0xFFFF));
  }
  return pieces;
}

template <class T>
std::vector<T> elements(Backend& backend, const Tensor& tensor) {
  std::vector<T> values(tensor ? tensor.size_bytes() / sizeof(T) : 0);
  if (!values.empty()) backend.read_bytes(tensor, std::as_writable_bytes(std::span(values)));
  return values;
}

class SampleCase final : public OpCase {
 public:
  SampleCase(const std::string& variant, HostMatrix logits) : OpCase("sample", variant), logits_(std::move(logits)) {}

  void add(SampleRow row, const std::vector<LogitChange>& changes = {}) {
    row.first_change = int(changes_.size());
    row.changes = int(changes.size());
    changes_.insert(changes_.end(), changes.begin(), changes.end());
    rows_.push_back(row);
  }

  std::vector<Output> run(Backend& backend) const override {
    Batch batch;
    batch.append(std::vector<int32_t>(size_t(logits_.rows), 0), 0, std::vector<int32_t>{0}, Batch::Want::all);
    batch.sample = rows_;
    batch.changes = changes_;
    backend.stream().bind(batch, nullptr);
    const Tensor logits = backend.upload(logits_.values, logits_.rows, logits_.cols);
    Sampled out;
    eagerly(backend, [&] { out = backend.stream().ops().sample(logits); });
    const auto ids = elements<int32_t>(backend, out.ids), tops = elements<int32_t>(backend, out.top_ids);
    auto logprobs = elements<double>(backend, out.logprobs);
    if (backend.name() == "cuda") forgive(ids, logprobs);
    return {{"ids", out.ids.rows(), out.ids.cols(), {ids.begin(), ids.end()}},
            {"logprobs", out.logprobs.rows(), out.logprobs.cols(), in_pieces(logprobs)},
            {"top ids", out.top_ids.rows(), out.top_ids.cols(), {tops.begin(), tops.end()}}};
  }

  /// A card has its own logarithm, rarely a unit in the last place beside the host's: what is so near to the
  /// definition's becomes it.
  void forgive(const std::vector<int32_t>& ids, std::vector<double>& logprobs) const {
    const size_t width = logprobs.size() / ids.size();
    for (size_t r = 0; r < ids.size() && width > 0; ++r) {
      const SampleRow asked = rows_.empty() ? SampleRow() : rows_[r];
      if (ids[r] < 0 || !asked.logprob) continue;
      const std::span<const float> row(logits_.row(int(r)), size_t(logits_.cols));
      const Logprobs want = logprobs_of(row, ids[r], asked.top_logprobs);
      const double near = 2 * std::abs(double(row[size_t(ids[r])]) - want.logprob) * 0x1p-52;
      const auto take = [&](double& got, double defined) {
        if (std::abs(got - defined) <= near) got = defined;
      };
      take(logprobs[r * width], want.logprob);
      for (size_t i = 0; i < want.top.size(); ++i) take(logprobs[r * width + 1 + i], want.top[i].second);
    }
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> exact;
    for (const Output& output : reference) exact.emplace_back(output.values.size(), 0);
    return exact;
  }

 private:
  HostMatrix logits_;
  std::vector<SampleRow> rows_;
  std::vector<LogitChange> changes_;
};

/// As a model gives them; `steps` per unit where equal ones shall be many.
HostMatrix model_logits(Random& random, int rows, int vocab, float steps = 0) {
  HostMatrix m{rows, vocab, random.normals(size_t(rows) * size_t(vocab), 3)};
  if (steps > 0) {
    for (float& v : m.values) v = std::round(v * steps) / steps;
  }
  return m;
}

std::unique_ptr<SampleCase> one_row(const std::string& variant, const std::vector<float>& logits, SampleRow row,
                                    const std::vector<LogitChange>& changes = {}) {
  auto made = std::make_unique<SampleCase>(variant, HostMatrix{1, int(logits.size()), logits});
  made->add(row, changes);
  return made;
}

std::vector<LogitChange> random_changes(Random& random, int vocab) {
  std::vector<LogitChange> changes;
  const int apart = random.integer(1, vocab);
  for (int token = random.integer(0, apart); token < vocab; token += random.integer(1, apart)) {
    LogitChange change{.token = token};
    const int kind = random.integer(0, 4);
    if (kind == 0) change.add = -kInf;
    if (kind == 1) change.add = float(random.normal(5));
    if (kind >= 1) change.penalty = float(random.uniform(0.5, 2));
    if (kind >= 3) change.subtract = float(random.uniform(-1, 2));
    changes.push_back(change);
  }
  return changes;
}

SampleRow random_row(Random& random, int vocab) {
  constexpr double kTemperatures[] = {1, 1, 0.6, 0.05, 3, 1e-3, 1e30};
  SampleRow row{.mode = Mode(random.integer(0, 9) == 0 ? 0 : random.integer(0, 3) == 0 ? 1 : 2)};
  row.temperature = kTemperatures[random.integer(0, 6)];
  if (random.integer(0, 1) == 0) row.top_k = random.integer(1, random.integer(0, 3) == 0 ? vocab + 2 : 8);
  if (random.integer(0, 1) == 0) row.top_p = random.uniform(0.01, 1);
  if (random.integer(0, 3) == 0) row.min_p = random.uniform(0, 1) * random.uniform(0, 1);
  if (random.integer(0, 19) == 0) row.forced = random.integer(0, vocab - 1);
  row.logprob = random.integer(0, 2) == 0;
  if (row.logprob) row.top_logprobs = random.integer(0, 6);
  row.seed = uint64_t(random.integer(0, 1 << 30));
  row.draw = uint64_t(random.integer(0, 1000));
  return row;
}

std::unique_ptr<SampleCase> mixed(const std::string& variant, int rows, int vocab, float steps) {
  Random random(seed_of("sample/" + variant));
  auto made = std::make_unique<SampleCase>(variant, model_logits(random, rows, vocab, steps));
  for (int r = 0; r < rows; ++r) {
    made->add(random_row(random, vocab),
              random.integer(0, 2) == 0 ? random_changes(random, vocab) : std::vector<LogitChange>());
  }
  return made;
}

/// The settings that models come with, each on a row of a real vocabulary.
void add_real(Cases& cases) {
  constexpr int kVocab = 151936;
  const std::vector<std::pair<std::string, SampleRow>> settings = {
      {"greedy", {.mode = Mode::greedy}},
      {"greedy_logprobs", {.mode = Mode::greedy, .logprob = true, .top_logprobs = 5}},
      {"temperature", {.mode = Mode::draw, .temperature = 0.7, .seed = 3}},
      {"logprobs", {.mode = Mode::draw, .logprob = true, .top_logprobs = 5, .seed = 4, .draw = 9}},
      {"top_k_top_p", {.mode = Mode::draw, .top_k = 20, .top_p = 0.8, .temperature = 0.7, .seed = 5}},
      {"top_k_large", {.mode = Mode::draw, .top_k = 5000, .seed = 6}},
      {"top_p", {.mode = Mode::draw, .top_p = 0.95, .seed = 7}},
      {"top_p_hot", {.mode = Mode::draw, .top_p = 0.95, .temperature = 4, .seed = 8}},
      {"min_p", {.mode = Mode::draw, .min_p = 0.05, .temperature = 1.5, .seed = 9}},
      {"all", {.mode = Mode::draw, .top_k = 50, .top_p = 0.9, .min_p = 0.02, .temperature = 0.8, .seed = 10}}};
  for (const auto& [name, row] : settings) {
    Random random(seed_of(name));
    auto made = std::make_unique<SampleCase>("vocab151936_" + name, model_logits(random, 1, kVocab));
    made->add(row);
    cases.push_back(std::move(made));
  }
  for (const int rows : {3, 16}) {
    const std::string variant = "vocab151936_rows" + std::to_string(rows);
    Random random(seed_of(variant));
    auto made = std::make_unique<SampleCase>(variant, model_logits(random, rows, kVocab, 64));
    for (int r = 0; r < rows; ++r) {
      std::vector<LogitChange> changes;
      for (int token = r; token < kVocab && r % 3 == 1; token += 700)
        changes.push_back({.token = token, .penalty = 1.1f});
      made->add(settings[size_t(r) % settings.size()].second, changes);
    }
    cases.push_back(std::move(made));
  }
}

}  // namespace

void add_sample(Cases& cases) {
  const SampleRow greedy{.mode = Mode::greedy}, draw{.mode = Mode::draw, .seed = 1};
  const auto with = [](SampleRow row, auto change) {
    change(row);
    return row;
  };
  cases.push_back(one_row("one_token", {0.5f}, greedy));
  cases.push_back(one_row("greedy_equal", {-1, 3, 2, 3}, greedy));
  cases.push_back(one_row("greedy_zeros", {-1, -0.0f, 0, -0.0f}, greedy));
  // 1 + 2^-23 and 1 are the same after the division.
  cases.push_back(one_row("greedy_equal_when_divided", {0, 1, 1 + 0x1p-23f},
                          with(greedy, [](SampleRow& r) { r.temperature = 3; })));
  cases.push_back(one_row("nobody_asks", {1, 2}, {}));
  cases.push_back(std::make_unique<SampleCase>("no_choices", HostMatrix{2, 3, {1, 2, 3, 4, 5, 6}}));
  for (const float bad : {float(NAN), -float(NAN), kInf}) {
    for (const int at : {0, 69}) {
      std::vector<float> logits(70, 1.5f);
      logits[size_t(at)] = bad;
      const std::string variant = std::string(std::isinf(bad)     ? "infinity"
                                              : std::signbit(bad) ? "minus_nan"
                                                                  : "nan") +
                                  "_at" + std::to_string(at);
      cases.push_back(one_row(variant, logits, with(draw, [](SampleRow& r) { r.logprob = true; })));
    }
  }
  cases.push_back(one_row("minus_infinity_is_masked", {-kInf, 1, -kInf},
                          with(draw, [](SampleRow& r) { r.logprob = true, r.top_logprobs = 4; })));
  cases.push_back(one_row("all_masked", {1, 2}, draw, {{.token = 0, .add = -kInf}, {.token = 1, .add = -kInf}}));
  cases.push_back(one_row("all_minus_infinity", {-kInf, -kInf}, with(greedy, [](SampleRow& r) { r.logprob = true; })));
  cases.push_back(one_row("forced", {1, 9, 2, 3}, with(draw, [](SampleRow& r) { r.forced = 2, r.logprob = true; }),
                          {{.token = 2, .add = -kInf}}));
  cases.push_back(one_row("bias_out_of_range", {1, 2, 3}, draw, {{.token = 1, .add = kInf}}));
  cases.push_back(one_row("bias_out_of_numbers", {1, 2, 3}, draw, {{.token = 2, .add = kInf, .subtract = kInf}}));
  cases.push_back(one_row("temperature_near_zero", {1, 3, 3}, with(draw, [](SampleRow& r) { r.temperature = 1e-44; })));
  cases.push_back(
      one_row("top_k_of_equal", std::vector<float>(500, 2.0f), with(draw, [](SampleRow& r) { r.top_k = 3; })));
  cases.push_back(
      one_row("top_p_of_equal", std::vector<float>(5000, 2.0f), with(draw, [](SampleRow& r) { r.top_p = 0.5; })));
  cases.push_back(one_row("min_p_of_one", {1, 4, 4, 3}, with(draw, [](SampleRow& r) { r.min_p = 1; })));
  int number = 0;
  for (const int vocab : {1, 2, 5, 63, 64, 65, 128, 200, 1000, 7001}) {
    for (const float steps : {0.0f, 1.0f, 4.0f}) {
      for (const int rows : {1, 3, 16})
        cases.push_back(
            mixed("mixed" + std::to_string(number++) + "_vocab" + std::to_string(vocab), rows, vocab, steps));
    }
  }
  add_real(cases);
}

}  // namespace bumblebee::op_cases
