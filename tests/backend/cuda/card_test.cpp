// The card of this machine, where it has one: start, memory, errors, replay. BB_REQUIRE_GPU=1 makes its absence a
// failure.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/registry.h"
#include "base/error.h"
#include "tests/backend/cuda/on_card.h"
#include "tests/support/memory_weights.h"
#include "tests/support/random.h"

namespace bumblebee {
namespace {

using testing_support::Random;

bool required() {
  const char* value = std::getenv("BB_REQUIRE_GPU");
  return value != nullptr && std::string_view(value) == "1";
}

std::string why_not() {
  for (const BackendEntry& entry : backends()) {
    if (entry.name == "cuda") return entry.absent(0);
  }
  return "not built";
}

TEST(Card, IsThereOrSaysWhyNot) {
  const std::string reason = why_not();
  if (!reason.empty()) std::printf("not run: cuda: %s\n", reason.c_str());
  EXPECT_TRUE(!required() || reason.empty()) << reason;
}

TEST_F(OnCard, KnowsItself) {
  if (backend_ == nullptr) return;
  EXPECT_NE(card()->describe(0).find("compute capability"), std::string::npos);
  EXPECT_GT(card()->memory_bytes(0), uint64_t{1} << 30);
  EXPECT_LE(card()->free_bytes(0), card()->memory_bytes(0));
  EXPECT_GT(card()->bandwidth(0, 0), 1e11);
  EXPECT_FALSE(backend_->lost());
}

TEST_F(OnCard, CountsWeights) {
  if (backend_ == nullptr) return;
  Random random(3);
  const HostWeight host = random_weight(random, 64, 128, Format::affine(4, 64, DType::bf16, DType::bf16), 1);
  const uint64_t before = backend_->memory().weights;
  {
    const Weight weight = backend_->pack(host);
    EXPECT_GE(backend_->memory().weights, before + stored_bytes(host));
  }
  EXPECT_EQ(backend_->memory().weights, before);
}

/// A model with one layer of attention and two recurrent ones.
KvShape with_states(int key_dim) {
  return {.groups = {{.layers = 1, .kv_heads = 1, .head_dim = 16},
                     {.kind = KvGroup::Kind::state,
                      .layers = 2,
                      .state = {.conv_rows = 3, .conv_cols = 64, .heads = 2, .key_dim = key_dim, .value_dim = 24}}},
          .places = {{1, 0}, {0, 0}, {1, 1}},
          .page_size = 16,
          .pages = 2,
          .states = 4};
}

TEST_F(OnCard, CountsStatesWhenTheyAreNamed) {
  if (backend_ == nullptr) return;
  const KvShape shape = with_states(32);
  const uint64_t before = backend_->memory().kv, page = page_bytes(shape), state = state_bytes(shape);
  auto kv = backend_->make_kv(shape);
  const auto bind = [&](StateSlots slots, int past) {
    Batch batch;
    batch.append(std::vector<int32_t>{1}, past, std::vector<int32_t>{0}, Batch::Want::none, -1, slots);
    backend_->stream().bind(batch, kv.get());
  };
  bind({-1, 2}, 0);
  bind({2, 2}, 1);
  EXPECT_EQ(backend_->memory().kv, before + page + state);
  bind({2, 0}, 1);
  EXPECT_EQ(backend_->memory().kv, before + page + 2 * state);
  kv.reset();
  EXPECT_EQ(backend_->memory().kv, before);
}

TEST_F(OnCard, RefusesKeysOfStatesThatAreTooWide) {
  if (backend_ == nullptr) return;
  try {
    (void)backend_->make_kv(with_states(257));
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(e.what()).find("keys of at most 256"), std::string::npos) << e.what();
  }
}

TEST_F(OnCard, RefusesMoreThanItHas) {
  if (backend_ == nullptr) return;
  const uint64_t bytes = card()->memory_bytes(0) * 2;
  try {
    require_device("cuda:0", {}, bytes);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::out_of_memory);
    EXPECT_NE(std::string(e.what()).find(std::to_string(bytes)), std::string::npos) << e.what();
  }
  EXPECT_EQ(require_device("auto", {}, 1).entry->name, "cuda");
}

TEST_F(OnCard, AFullCardIsAnErrorAndWorksOn) {
  if (backend_ == nullptr) return;
  std::vector<Tensor> held;
  const auto fill = [&] {
    while (true) held.push_back(backend_->make(1 << 14, 1 << 14));  // 1 GiB
  };
  try {
    fill();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::out_of_memory);
    EXPECT_NE(std::string(e.what()).find("bytes free, got"), std::string::npos) << e.what();
  }
  held.clear();
  backend_->keep_memory(1);
  const Tensor t = backend_->upload(std::vector<float>{1, 2}, 1, 2);
  std::vector<float> got(2);
  backend_->read(t, got);
  EXPECT_EQ(got, (std::vector<float>{1, 2}));
}

/// The first run is eager, the second records, the rest replay: all give the same bits for the same batch.
TEST_F(OnCard, AReplayedStepIsTheEagerOne) {
  if (backend_ == nullptr) return;
  Random random(5);
  const Weight table =
      backend_->pack(random_weight(random, 50, 64, Format::affine(4, 32, DType::bf16, DType::bf16), 1));
  Stream& stream = backend_->stream();
  const int program = 0;
  const auto step = [&](int32_t token) {
    Batch batch;
    batch.append(std::vector<int32_t>{token, 7}, 0, std::vector<int32_t>{0}, Batch::Want::all);
    batch.sample.assign(2, {.mode = SampleRow::Mode::greedy, .logprob = true, .top_logprobs = 2});
    stream.bind(batch, nullptr);
    const StepKey key{.program = &program, .rows = 2, .logit_rows = 2, .sample = true, .logprobs = 2};
    const StepOutputs out = stream.run(key, [&] {
      const Tensor x = stream.ops().embed(table);
      const MatmulTerm term{&table, nullptr};
      Tensor y;
      stream.ops().matmul(x, {&term, 1}, {&y, 1});
      return StepOutputs{.logits = y, .hidden = {}, .sampled = stream.ops().sample(y)};
    });
    const auto logits = stream.fetch(out.logits), ids = stream.fetch(out.sampled.ids);
    std::vector<float> values(100);
    read_floats(*logits, values);
    ids->wait();
    values.push_back(float(*reinterpret_cast<const int32_t*>(ids->bytes().data())));
    return values;
  };
  std::vector<std::vector<float>> eager;
  for (int32_t token = 0; token < 6; ++token) {
    stream.forget(&program);
    eager.push_back(step(token));
  }
  stream.forget(&program);
  for (int round = 0; round < 3; ++round) {
    for (int32_t token = 0; token < 6; ++token) EXPECT_EQ(step(token), eager[size_t(token)]) << round << " " << token;
  }
  stream.forget(&program);
}

/// What became one kernel with its neighbours, and the same while somebody holds what lies between: the bits of
/// operations that are enqueued one by one, eagerly, recorded and replayed.
TEST_F(OnCard, FusedOperationsHaveTheBitsOfSingleOnes) {
  if (backend_ == nullptr) return;
  Random random(7);
  const auto weight = [&](int out, int in) {
    return backend_->pack(random_weight(random, out, in, Format::affine(4, 64, DType::bf16, DType::bf16), 1));
  };
  const Weight gate = weight(128, 256), up = weight(128, 256), down = weight(256, 128);
  const NormParams norm{backend_->upload(random.normals(256, 1), 1, 256), 1e-5f};
  Stream& stream = backend_->stream();
  Ops& ops = stream.ops();
  const int fused = 0, kept = 0;
  for (const int rows : {1, 4, 7, 32}) {
    const Tensor input = backend_->upload(random.normals(size_t(rows) * 256, 1), rows, 256);
    Batch batch;
    batch.append(std::vector<int32_t>(size_t(rows), 1), 0, std::vector<int32_t>{0}, Batch::Want::all);
    stream.bind(batch, nullptr);
    const auto run = [&](const int* program, bool holds) {
      const StepOutputs out = stream.run({.program = program, .rows = rows, .logit_rows = rows}, [&] {
        Tensor x = ops.copy(input);
        std::array<Tensor, 2> pair;
        const std::array<MatmulTerm, 2> terms = {{{&gate, nullptr}, {&up, nullptr}}};
        ops.matmul(ops.rms_norm(x, norm), terms, pair);
        const Tensor held_gate = holds ? pair[0] : Tensor();
        const Tensor mixed = ops.glu(Activation::silu, std::move(pair[0]), std::move(pair[1]));
        const MatmulTerm last{&down, nullptr};
        Tensor delta;
        ops.matmul(mixed, {&last, 1}, {&delta, 1});
        const Tensor held_delta = holds ? delta : Tensor();
        const Tensor y = ops.add_rms_norm(x, std::move(delta), norm);
        return StepOutputs{.logits = x, .hidden = holds ? held_delta : y, .sampled = {}};
      });
      std::vector<float> values(size_t(rows) * 512);
      const auto x = stream.fetch(out.logits), y = stream.fetch(out.hidden);
      read_floats(*x, std::span(values).first(values.size() / 2));
      read_floats(*y, std::span(values).last(values.size() / 2));
      return values;
    };
    const std::vector<float> single = run(nullptr, false), single_held = run(nullptr, true);
    for (int round = 0; round < 3; ++round) {
      EXPECT_EQ(run(&fused, false), single) << rows << " rows, round " << round;
      EXPECT_EQ(run(&kept, true), single_held) << rows << " rows, round " << round;
    }
    stream.forget(&fused);
    stream.forget(&kept);
  }
}

/// Products of one row that follow each other are chains in recorded steps (kernels/product_chain.h): the bits of
/// operations that are enqueued one by one, eagerly, recorded and replayed, also where an operation stands between
/// them.
TEST_F(OnCard, ChainsOfProductsHaveTheBitsOfSingleOperations) {
  if (backend_ == nullptr) return;
  constexpr int kWidth = 2048, kInner = 2560, kLayers = 3;
  Random random(17);
  const auto weight = [&](int out, int in) {
    return backend_->pack(random_weight(random, out, in, Format::affine(4, 64, DType::bf16, DType::bf16), 0.1));
  };
  std::vector<Weight> weights;
  for (int layer = 0; layer < kLayers; ++layer)
    for (int i = 0; i < 3; ++i) weights.push_back(i == 2 ? weight(kWidth, kInner) : weight(kInner, kWidth));
  const NormParams norm{backend_->upload(random.normals(kWidth, 1), 1, kWidth), 1e-5f};
  Stream& stream = backend_->stream();
  Ops& ops = stream.ops();
  const int programs[2] = {};
  const auto run = [&](const int* program, bool between, const std::vector<float>& x0) {
    const Tensor input = backend_->upload(x0, 1, kWidth);
    Batch batch;
    batch.append(std::vector<int32_t>{1}, 0, std::vector<int32_t>{0}, Batch::Want::all);
    stream.bind(batch, nullptr);
    const StepOutputs out = stream.run({.program = program, .rows = 1, .logit_rows = 1}, [&] {
      Tensor x = ops.copy(input);
      for (size_t layer = 0; layer < kLayers; ++layer) {
        std::array<Tensor, 2> pair;
        const std::array<MatmulTerm, 2> terms = {{{&weights[3 * layer], nullptr}, {&weights[3 * layer + 1], nullptr}}};
        ops.matmul(ops.rms_norm(x, norm), terms, pair);
        const Tensor mixed = ops.glu(Activation::silu, std::move(pair[0]), std::move(pair[1]));
        const MatmulTerm last{&weights[3 * layer + 2], nullptr};
        Tensor delta;
        ops.matmul(mixed, {&last, 1}, {&delta, 1});
        ops.add(x, std::move(delta));
        if (between && layer == 1) ops.soft_cap(x, 3);
      }
      return StepOutputs{.logits = ops.rms_norm(x, norm), .hidden = x, .sampled = {}};
    });
    std::vector<float> values(size_t(kWidth) * 2);
    const auto normed = stream.fetch(out.logits), hidden = stream.fetch(out.hidden);
    read_floats(*normed, std::span(values).first(values.size() / 2));
    read_floats(*hidden, std::span(values).last(values.size() / 2));
    return values;
  };
  for (int round = 0; round < 4; ++round) {  // other rows in the same recorded step
    const std::vector<float> x = random.normals(kWidth, 1);
    for (const bool between : {false, true})
      EXPECT_EQ(run(&programs[between], between, x), run(nullptr, between, x)) << "round " << round << ", " << between;
  }
  for (const int& program : programs) stream.forget(&program);
}

/// A layer's experts in one step: whoever is routed where, a recorded step is right for it, and a row has the bits that
/// it has alone.
TEST_F(OnCard, ExpertsHaveTheSameBitsReplayedAndInCompany) {
  if (backend_ == nullptr) return;
  constexpr int kWidth = 256, kInner = 384, kExperts = 12, kTopK = 3, kMostRows = 32;
  const auto options = [](bool fast) { return BackendOptions{.fast = fast, .instruction_set = {}}; };
  for (const bool fast : {false, true}) {
    const std::unique_ptr<Backend> backend = card()->create(options(fast));
    Random random(11);
    const auto weight = [&](int out, int in) {
      return backend->pack(random_weight(random, out, in, Format::affine(4, 64, DType::bf16, DType::bf16), 0.2));
    };
    const auto stack = [&](int out, int in) {
      std::vector<Weight> each;
      for (int e = 0; e < kExperts; ++e) each.push_back(weight(out, in));
      return backend->stack(each);
    };
    const Weight router = weight(kExperts, kWidth), gate = stack(kInner, kWidth), up = stack(kInner, kWidth),
                 down = stack(kWidth, kInner);
    const Weight table = weight(kMostRows, kWidth);
    const NormParams norm{backend->upload(random.normals(kWidth, 1), 1, kWidth), 1e-5f};
    Stream& stream = backend->stream();
    Ops& ops = stream.ops();
    const int program = 0;
    const auto run = [&](const int* key, int first, int rows) {  // of these tokens
      std::vector<int32_t> tokens(size_t(rows), 0);
      std::iota(tokens.begin(), tokens.end(), first);
      Batch batch;
      batch.append(tokens, 0, std::vector<int32_t>{0}, Batch::Want::all);
      stream.bind(batch, nullptr);
      const StepOutputs out = stream.run({.program = key, .rows = rows, .logit_rows = rows}, [&] {
        Tensor residual = ops.embed(table);
        const Tensor h = ops.rms_norm(residual, norm);
        const MatmulTerm scores{&router, nullptr};
        Tensor logits;
        ops.matmul(h, {&scores, 1}, {&logits, 1});
        const Routing routing = ops.route(logits, {.experts = kExperts, .top_k = kTopK, .bias = {}});
        const std::array<const Weight*, 2> into = {&gate, &up};
        std::array<Tensor, 2> wide;
        ops.matmul_experts(h, ExpertRows::batch, routing, into, wide);
        const Tensor mixed = ops.glu(Activation::silu, std::move(wide[0]), std::move(wide[1]));
        const Weight* const last = &down;
        Tensor y;
        ops.matmul_experts(mixed, ExpertRows::assignments, routing, {&last, 1}, {&y, 1});
        Tensor sum = ops.sum_experts(y, routing);
        const Tensor normed = ops.add_rms_norm(residual, std::move(sum), norm);
        return StepOutputs{.logits = residual, .hidden = normed, .sampled = {}};
      });
      const size_t size = size_t(rows) * kWidth;
      std::vector<float> values(2 * size);
      const auto sums = stream.fetch(out.logits), norms = stream.fetch(out.hidden);
      read_floats(*sums, std::span(values).first(size));
      read_floats(*norms, std::span(values).last(size));
      return values;
    };
    std::vector<std::vector<float>> alone;
    for (int token = 0; token < kMostRows; ++token) alone.push_back(run(nullptr, token, 1));
    for (const int rows : {1, 2, 5, 31}) {
      const size_t size = size_t(rows) * kWidth;
      for (int round = 0; round < 4; ++round) {  // eager, recorded, replayed, with other rows each time
        const int begin = round % (kMostRows - rows + 1);
        const std::vector<float> got = run(&program, begin, rows), eager = run(nullptr, begin, rows);
        EXPECT_EQ(got, eager) << "fast " << fast << ", " << rows << " rows, round " << round;
        for (size_t r = 0; r < size_t(rows); ++r) {
          const std::vector<float>& want = alone[size_t(begin) + r];
          EXPECT_TRUE(std::equal(want.begin(), want.begin() + kWidth, got.begin() + int64_t(r * kWidth)) &&
                      std::equal(want.begin() + kWidth, want.end(), got.begin() + int64_t(size + r * kWidth)))
              << "fast " << fast << ", row " << r << " of " << rows << ", round " << round;
        }
      }
    }
    stream.forget(&program);
  }
}

}  // namespace
}  // namespace bumblebee
