// Attention of rows, each of a sequence of its own, that norms, rotates and keeps them as well: the bits of single
// operations.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "tests/backend/cuda/on_card.h"
#include "tests/support/random.h"

namespace bumblebee {
namespace {

using testing_support::Random;

struct Heads {
  int count, of_kv, dim, half, page_size;
  bool normed;
  DType cached;
  int window = 0;
};

/// Sequences that grow by one row at a time, whose rows are alike from step to step but for their places. Sequence s
/// has s · kApart tokens more than the first. Where they are several, a step has a row of padding.
class Growing {
 public:
  Growing(Backend& backend, const Heads& heads, int tokens, int sequences)
      : backend_(backend),
        heads_(heads),
        sequences_(sequences),
        rows_(sequences > 1 ? sequences + 1 : 1),
        pages_((tokens + (sequences - 1) * kApart + heads.page_size - 1) / heads.page_size),
        random_(31) {
    kv_ = backend.make_kv({.groups = {{.kind = KvGroup::Kind::attention,
                                       .layers = 1,
                                       .kv_heads = heads.of_kv,
                                       .head_dim = heads.dim,
                                       .window = heads.window}},
                           .page_size = heads.page_size,
                           .pages = pages_ * sequences,
                           .dtype = heads.cached});
    q_ = rows(rows_, heads.count), k_ = rows(rows_, heads.of_kv), v_ = rows(rows_, heads.of_kv);
    q_norm_ = {rows(1, 1), 1e-5f}, k_norm_ = {rows(1, 1), 1e-5f};
    for (int i = 0; i < heads.half; ++i) rope_.inv_freq.push_back(float(std::pow(10000.0, -double(i) / heads.half)));
  }
  ~Growing() { forget(); }
  Growing(const Growing&) = delete;

  void begin_with(int past) {
    for (int s = 0; s < sequences_; ++s) {
      const int count = past + s * kApart;
      if (count == 0) continue;
      Batch batch;
      append(batch, s, count, 0);
      backend_.stream().bind(batch, kv_.get());
      const Tensor q = rows(count, heads_.count), k = rows(count, heads_.of_kv), v = rows(count, heads_.of_kv);
      backend_.stream().ops().attend(*kv_, 0, q, k, v, params());
    }
  }
  /// Attention of the next rows, and its rotated queries (keys, where `keys`). `waits`: as a step that is recorded.
  std::vector<float> next(int past, bool keys, bool waits) {
    Stream& stream = backend_.stream();
    Ops& ops = stream.ops();
    Batch batch;
    for (int s = 0; s < sequences_; ++s) append(batch, s, 1, past + s * kApart);
    batch.pad(rows_, rows_);
    backend_.stream().bind(batch, kv_.get());
    const void* const program = waits ? (keys ? static_cast<const void*>(&rope_) : this) : nullptr;
    const StepOutputs out = stream.run({.program = program, .rows = rows_, .logit_rows = rows_}, [&] {
      Tensor q = ops.copy(q_), k = ops.copy(k_);
      const Tensor v = ops.copy(v_);
      ops.norm_rope(q, k, heads_.dim, heads_.normed ? &q_norm_ : nullptr, heads_.normed ? &k_norm_ : nullptr, rope_);
      const Tensor y = ops.attend(*kv_, 0, q, k, v, params());
      return StepOutputs{.logits = y, .hidden = keys ? k : q, .sampled = {}};
    });
    const size_t all = size_t(rows_ * heads_.count * heads_.dim),
                 all_turned = size_t(rows_ * (keys ? heads_.of_kv : heads_.count) * heads_.dim);
    const size_t size = all / size_t(rows_) * size_t(sequences_),
                 turned = all_turned / size_t(rows_) * size_t(sequences_);
    std::vector<float> values(all), others(all_turned);
    const auto y = stream.fetch(out.logits), x = stream.fetch(out.hidden);
    read_floats(*y, values);
    read_floats(*x, others);
    values.resize(size);
    values.insert(values.end(), others.begin(), others.begin() + ptrdiff_t(turned));
    return values;
  }

 private:
  void forget() {
    backend_.stream().forget(this);
    backend_.stream().forget(&rope_);
  }
  Tensor rows(int count, int heads) {
    return backend_.upload(random_.normals(size_t(count) * size_t(heads) * size_t(heads_.dim), 1), count,
                           heads * heads_.dim);
  }
  AttentionParams params() const {
    return {.heads = heads_.count,
            .kv_heads = heads_.of_kv,
            .head_dim = heads_.dim,
            .scale = float(1 / std::sqrt(double(heads_.dim))),
            .window = heads_.window};
  }
  void append(Batch& batch, int sequence, int rows, int past) const {
    std::vector<int32_t> pages(size_t((past + rows + heads_.page_size - 1) / heads_.page_size));
    std::iota(pages.begin(), pages.end(), sequence * pages_);
    batch.append(std::vector<int32_t>(size_t(rows), 1), past, pages, Batch::Want::all);
  }

  static constexpr int kApart = 5;
  Backend& backend_;
  const Heads heads_;
  const int sequences_, rows_, pages_;
  Random random_;
  std::unique_ptr<KvStore> kv_;
  Tensor q_, k_, v_;
  NormParams q_norm_, k_norm_;
  RopeParams rope_;
};

TEST_F(OnCard, AttentionThatRotatesHasTheBitsOfSingleOperations) {
  if (backend_ == nullptr) return;
  const std::unique_ptr<Backend> backend = card()->create({.fast = true, .instruction_set = {}});
  constexpr int kSteps = 18;
  for (const Heads& heads :
       {Heads{8, 2, 128, 64, 64, true, DType::bf16}, Heads{32, 8, 128, 64, 64, true, DType::i8},
        Heads{5, 1, 64, 32, 16, true, DType::i8, 40}, Heads{14, 2, 64, 16, 32, true, DType::bf16},
        Heads{6, 3, 64, 32, 64, false, DType::bf16, 100}, Heads{4, 4, 128, 64, 64, false, DType::i8}})
    for (const auto& [past, sequences] : {std::pair(0, 1), std::pair(10, 1), std::pair(60, 1), std::pair(1020, 1),
                                          std::pair(0, 3), std::pair(1010, 3), std::pair(3, 52)}) {
      Growing apart(*backend, heads, past + kSteps, sequences), together(*backend, heads, past + kSteps, sequences);
      apart.begin_with(past);
      together.begin_with(past);
      for (int i = 0; i < (sequences > 1 ? 4 : kSteps); ++i) {
        const std::vector<float> want = apart.next(past + i, i % 2 != 0, false);
        for (const float x : want) ASSERT_TRUE(std::isfinite(x));
        ASSERT_EQ(want, together.next(past + i, i % 2 != 0, true))
            << heads.count << " heads of " << heads.dim << ", " << to_string(heads.cached) << ", " << sequences
            << " sequences at " << past + i;
      }
    }
}

}  // namespace
}  // namespace bumblebee
