// Attention of a step's only row that norms, rotates and keeps it as well: the bits of single operations.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <span>
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

/// A sequence that grows by one row at a time, all of which are alike but for their places.
class Growing {
 public:
  Growing(Backend& backend, const Heads& heads, int tokens) : backend_(backend), heads_(heads), random_(31) {
    kv_ = backend.make_kv({.groups = {{.kind = KvGroup::Kind::attention,
                                       .layers = 1,
                                       .kv_heads = heads.of_kv,
                                       .head_dim = heads.dim,
                                       .window = heads.window}},
                           .page_size = heads.page_size,
                           .pages = (tokens + heads.page_size - 1) / heads.page_size,
                           .dtype = heads.cached});
    q_ = rows(1, heads.count), k_ = rows(1, heads.of_kv), v_ = rows(1, heads.of_kv);
    q_norm_ = {rows(1, 1), 1e-5f}, k_norm_ = {rows(1, 1), 1e-5f};
    for (int i = 0; i < heads.half; ++i) rope_.inv_freq.push_back(float(std::pow(10000.0, -double(i) / heads.half)));
  }
  ~Growing() { forget(); }
  Growing(const Growing&) = delete;

  void begin_with(int past) {
    if (past == 0) return;
    bind(past, 0);
    const Tensor q = rows(past, heads_.count), k = rows(past, heads_.of_kv), v = rows(past, heads_.of_kv);
    backend_.stream().ops().attend(*kv_, 0, q, k, v, params());
  }
  /// Attention of the next row, and its rotated queries (keys, where `keys`). `waits`: as a step that is recorded.
  std::vector<float> next(int past, bool keys, bool waits) {
    Stream& stream = backend_.stream();
    Ops& ops = stream.ops();
    bind(1, past);
    const void* const program = waits ? (keys ? static_cast<const void*>(&rope_) : this) : nullptr;
    const StepOutputs out = stream.run({.program = program, .rows = 1, .logit_rows = 1}, [&] {
      Tensor q = ops.copy(q_), k = ops.copy(k_);
      const Tensor v = ops.copy(v_);
      ops.norm_rope(q, k, heads_.dim, heads_.normed ? &q_norm_ : nullptr, heads_.normed ? &k_norm_ : nullptr, rope_);
      const Tensor y = ops.attend(*kv_, 0, q, k, v, params());
      return StepOutputs{.logits = y, .hidden = keys ? k : q, .sampled = {}};
    });
    const size_t size = size_t(heads_.count * heads_.dim),
                 turned = size_t((keys ? heads_.of_kv : heads_.count) * heads_.dim);
    std::vector<float> values(size + turned);
    const auto y = stream.fetch(out.logits), x = stream.fetch(out.hidden);
    read_floats(*y, std::span(values).first(size));
    read_floats(*x, std::span(values).last(turned));
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
  void bind(int rows, int past) {
    std::vector<int32_t> pages(size_t((past + rows + heads_.page_size - 1) / heads_.page_size));
    std::iota(pages.begin(), pages.end(), 0);
    Batch batch;
    batch.append(std::vector<int32_t>(size_t(rows), 1), past, pages, Batch::Want::all);
    backend_.stream().bind(batch, kv_.get());
  }

  Backend& backend_;
  const Heads heads_;
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
    for (const int past : {0, 10, 60, 1020}) {
      Growing apart(*backend, heads, past + kSteps), together(*backend, heads, past + kSteps);
      apart.begin_with(past);
      together.begin_with(past);
      for (int i = 0; i < kSteps; ++i) {
        const std::vector<float> want = apart.next(past + i, i % 2 != 0, false);
        for (const float x : want) ASSERT_TRUE(std::isfinite(x));
        ASSERT_EQ(want, together.next(past + i, i % 2 != 0, true))
            << heads.count << " heads of " << heads.dim << ", " << to_string(heads.cached) << ", at " << past + i;
      }
    }
}

}  // namespace
}  // namespace bumblebee
