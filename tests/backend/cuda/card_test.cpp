// The card of this machine, where it has one: start, memory, errors, replay. BB_REQUIRE_GPU=1 makes its absence a
// failure.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>
#include <utility>

#include "backend/registry.h"
#include "base/error.h"
#include "tests/support/memory_weights.h"
#include "tests/support/random.h"

namespace bumblebee {
namespace {

using testing_support::Random;

bool required() {
  const char* value = std::getenv("BB_REQUIRE_GPU");
  return value != nullptr && std::string_view(value) == "1";
}

/// Null without a card.
const BackendEntry* card() {
  for (const BackendEntry& entry : backends()) {
    if (entry.name == "cuda" && entry.absent(0).empty()) return &entry;
  }
  return nullptr;
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

class OnCard : public testing::Test {
 protected:
  void SetUp() override {
    if (card() == nullptr) return;
    backend_ = card()->create({.instruction_set = {}});
  }
  std::unique_ptr<Backend> backend_;
};

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

}  // namespace
}  // namespace bumblebee
