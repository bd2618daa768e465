// A sequence's result does not depend on how its tokens were cut into steps, on who shared the batch or on which pages
// it got: bit for bit, because every sum has one order (docs/internals/numerics.md). For the same reason the
// instruction sets with a fused multiply-add agree with each other.
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "tests/models/running.h"
#include "tests/support/replay_backend.h"
#include "tests/support/tolerance.h"

namespace bumblebee::models {
namespace {

using namespace testing_support;

std::vector<TinyModel> tiny_models() {
  return {{.family = "qwen3", .tied = true},
          {.family = "llama", .heads = 6, .kv_heads = 2, .format = Format::affine(4, 32, DType::bf16, DType::bf16)},
          {.family = "mistral", .window = 7, .format = Format::dense(DType::bf16)},
          {.family = "qwen2",
           .d_model = 128,
           .heads = 4,
           .kv_heads = 1,
           .head_dim = 32,
           .d_ff = 128,
           .format = Format::affine(3, 64, DType::f16, DType::f16)},
          {.family = "qwen3_moe", .format = Format::affine(4, 32, DType::bf16, DType::bf16)},
          {.family = "qwen2_moe", .format = Format::dense(DType::bf16), .normalised = false},
          {.family = "mixtral",
           .window = 7,
           .format = Format::affine(3, 32, DType::f16, DType::f16),
           .experts = 4,
           .of_row = 2},
          // All experts of a row: where two are about equally good, kinds of rows may choose otherwise.
          {.family = "gpt_oss", .window = 7, .format = Format::mxfp4(), .experts = 4, .of_row = 4},
          {.family = "deepseek_v3", .format = Format::affine(8, 32, DType::bf16, DType::bf16)},
          {.family = "deepseek_v2", .format = Format::affine(4, 32, DType::bf16, DType::bf16)},
          {.family = "qwen3_5", .layers = 3, .format = Format::affine(4, 32, DType::bf16, DType::bf16), .interval = 3},
          {.family = "qwen3_next", .format = Format::dense(DType::bf16)},
          {.family = "qwen3_5_moe",
           .tied = true,
           .format = Format::affine(4, 32, DType::bf16, DType::bf16),
           .key_heads = 1,
           .value_heads = 3,
           .value_dim = 32},
          {.family = "gemma2", .tied = true, .format = Format::affine(4, 32, DType::bf16, DType::bf16)},
          {.family = "gemma3", .tied = true, .format = Format::affine(4, 32, DType::bf16, DType::bf16)},
          {.family = "gemma4", .layers = 4, .tied = true, .format = Format::affine(4, 32, DType::bf16, DType::bf16)},
          {.family = "gemma4_moe", .tied = true, .format = Format::dense(DType::bf16)},
          {.family = "olmo3", .format = Format::affine(4, 32, DType::bf16, DType::bf16)},
          {.family = "ministral3", .format = Format::affine(4, 32, DType::bf16, DType::bf16)},
          {.family = "glm4", .format = Format::affine(4, 32, DType::bf16, DType::bf16)},
          {.family = "lfm2",
           .layers = 3,
           .tied = true,
           .format = Format::affine(4, 32, DType::bf16, DType::bf16),
           .interval = 3}};
}
constexpr int kWithoutExperts = 4;  // the first of them
constexpr int kTinyModels = 21;

class BatchLaws : public testing::TestWithParam<std::tuple<Target, int>> {
 protected:
  BatchLaws() : target_(std::get<0>(GetParam())), tiny_(tiny_models()[size_t(std::get<1>(GetParam()))]) {}
  void SetUp() override {
    if (const std::string operation = lacked(target_.backend, tiny_); !operation.empty())
      GTEST_SKIP() << "no " << operation << " on " << target_.backend;
  }

  Runner runner(uint64_t page_seed = 1) const { return Runner(target_.create(), tiny_, {.page_seed = page_seed}); }

  std::vector<float> solo(const std::vector<int32_t>& tokens) const { return runner().step({{0, tokens}}).front(); }

  /// Bit for bit, where all rows take one kind of kernel: sums have one order, whatever shares the batch.
  void expect_same(const std::vector<float>& got, const std::vector<float>& want, const std::string& what) const {
    expect_same_rows(target_, tiny_.layers, got, want, what, tiny_.sharpness());
  }

  const Target target_;
  const TinyModel tiny_;
};

INSTANTIATE_TEST_SUITE_P(All, BatchLaws,
                         testing::Combine(testing::ValuesIn(every_target()), testing::Range(0, kTinyModels)),
                         [](const auto& p) {
                           return std::get<0>(p.param).name() + "_" +
                                  tiny_models()[size_t(std::get<1>(p.param))].family;
                         });

TEST_P(BatchLaws, ChunksGiveTheResultOfTheWhole) {
  const std::vector<int32_t> tokens = random_tokens(5, 53, tiny_.vocab);  // four pages of 16
  const std::vector<float> whole = solo(tokens);
  for (const int size : {1, 3, 7, 15, 16, 17, 32, 52}) {
    Runner r = runner(uint64_t(size));
    std::vector<float> joined;
    for (size_t i = 0; i < tokens.size(); i += size_t(size)) {
      const auto end = tokens.begin() + int64_t(std::min(tokens.size(), i + size_t(size)));
      const std::vector<float> part = r.step({{0, {tokens.begin() + int64_t(i), end}}}).front();
      joined.insert(joined.end(), part.begin(), part.end());
    }
    expect_same(joined, whole, cat("chunks of ", size));
  }
}

TEST_P(BatchLaws, DecodeContinuesPrefillAtEveryLength) {
  const std::vector<int32_t> tokens = random_tokens(6, 35, tiny_.vocab);
  const std::vector<float> whole = solo(tokens);
  const size_t vocab = size_t(tiny_.vocab);
  for (size_t n = 1; n < tokens.size(); n += n < 14 || n > 30 ? 1 : 3) {
    Runner r = runner(n);
    r.step({{0, {tokens.begin(), tokens.begin() + int64_t(n)}}});
    const std::vector<float> next = r.step({{0, {tokens[n]}}}).front();
    expect_same(next, {whole.begin() + int64_t(n * vocab), whole.begin() + int64_t((n + 1) * vocab)},
                cat("after ", n, " tokens"));
  }
}

/// Rows that nobody asks about may be left out of some layers: the others' results stay, beside company and later on.
TEST_P(BatchLaws, RowsThatAreNotWantedChangeNothing) {
  const std::vector<int32_t> tokens = random_tokens(8, 41, tiny_.vocab), others = random_tokens(9, 6, tiny_.vocab);
  const std::vector<float> whole = solo(tokens), whole_others = solo(others);
  const auto row = [&](const std::vector<float>& all, size_t r) {
    return std::vector<float>(all.begin() + int64_t(r) * tiny_.vocab, all.begin() + int64_t(r + 1) * tiny_.vocab);
  };
  const auto part = [&](size_t first, size_t last) {
    return std::vector<int32_t>(tokens.begin() + int64_t(first), tokens.begin() + int64_t(last));
  };
  Runner r = runner(4);
  EXPECT_TRUE(r.step({{.sequence = 0, .tokens = part(0, 17), .want = Batch::Want::none}}).front().empty());
  const auto both = r.step({{.sequence = 0, .tokens = part(17, 23), .want = Batch::Want::none},
                            {.sequence = 1, .tokens = others, .want = Batch::Want::all}});
  expect_same(both[1], whole_others, "beside rows that nobody wants");
  expect_same(r.step({{.sequence = 0, .tokens = part(23, 39), .want = Batch::Want::last}}).front(), row(whole, 38),
              "the last of a prompt");
  expect_same(r.step({{.sequence = 0, .tokens = part(39, 40), .want = Batch::Want::last}}).front(), row(whole, 39),
              "the next token");
  expect_same(r.step({{.sequence = 0, .tokens = part(40, 41)}}).front(), row(whole, 40), "and the next");
}

/// Sequences of different lengths, joining and leaving, in chunks of different sizes, over shuffled pages.
TEST_P(BatchLaws, PackedSequencesGetTheirSoloResults) {
  // Of experts no step has more rows than one kind of kernels takes: scores that are rounded otherwise may choose
  // others.
  const int most = tiny_.has_experts() ? 6 : 12;
  const int lengths[] = {1, 16, tiny_.has_experts() ? 31 : 33, 5, 17};
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<float>> want, got(std::size(lengths));
  for (size_t s = 0; s < std::size(lengths); ++s) {
    tokens.push_back(random_tokens(100 + s, lengths[s], tiny_.vocab));
    want.push_back(solo(tokens.back()));
  }
  Runner r = runner(9);
  Random random(77);
  std::vector<size_t> done(std::size(lengths), 0);
  for (bool more = true; more;) {
    std::vector<Chunk> chunks;
    more = false;
    for (size_t s = 0; s < tokens.size(); ++s) {
      const size_t left = tokens[s].size() - done[s];
      if (left == 0) continue;
      more = true;
      const size_t take = std::min(left, size_t(random.integer(0, most)));  // zero: this one waits
      if (take == 0) continue;
      const auto first = tokens[s].begin() + int64_t(done[s]);
      chunks.push_back({int(s), {first, first + int64_t(take)}});
      done[s] += take;
    }
    if (chunks.empty()) continue;
    std::swap(chunks.front(), chunks[size_t(random.integer(0, int(chunks.size()) - 1))]);
    const auto parts = r.step(chunks);
    for (size_t c = 0; c < chunks.size(); ++c) {
      auto& all = got[size_t(chunks[c].sequence)];
      all.insert(all.end(), parts[c].begin(), parts[c].end());
    }
  }
  for (size_t s = 0; s < tokens.size(); ++s) expect_same(got[s], want[s], cat("sequence ", s));
}

TEST_P(BatchLaws, ARowDoesNotSeeItsBatchMates) {
  const std::vector<int32_t> mine = random_tokens(8, 9, tiny_.vocab);
  std::vector<float> first;
  for (const uint64_t mate : {1u, 2u}) {  // other tokens beside, same shape of batch
    Runner r = runner();
    const std::vector<float> logits = r.step(
        {{0, random_tokens(mate, 13, tiny_.vocab)}, {1, mine}, {2, random_tokens(mate + 50, 4, tiny_.vocab)}})[1];
    if (first.empty()) {
      first = logits;
    } else {
      EXPECT_EQ(logits, first);  // the same sums in the same order: not one bit may differ, on any backend
    }
  }
}

/// Keys and values rounded once to u relative: scores move by u·Σ|q||k|·scale, at most 2u times the largest score,
/// which random tiny models keep below about 30; values by u. Every layer does that, and layers add up.
class NarrowCaches : public BatchLaws {};

/// Exact precision only: int8 activations would drown what the cache costs.
class InstructionSets : public testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(All, InstructionSets, testing::Range(0, kTinyModels),
                         [](const auto& p) { return tiny_models()[size_t(p.param)].family; });

TEST_P(InstructionSets, WithFusedMultiplyAddAgreeBitForBit) {
  const TinyModel tiny = tiny_models()[size_t(GetParam())];
  const std::vector<int32_t> tokens = random_tokens(12, 70, tiny.vocab);
  std::vector<float> first;
  for (const Target& target : targets()) {
    if (target.backend != "cpu" || target.options.fast || target.options.instruction_set == "scalar") continue;
    const std::vector<float> logits = Runner(target.create(), tiny, {.page_seed = 1}).step({{0, tokens}}).front();
    if (first.empty()) first = logits;
    EXPECT_EQ(logits, first) << target.name();
  }
  EXPECT_FALSE(first.empty());
}

/// Without experts: which are chosen is no continuous function of what is cached.
INSTANTIATE_TEST_SUITE_P(All, NarrowCaches,
                         testing::Combine(testing::ValuesIn(exact_targets()), testing::Range(0, kWithoutExperts)),
                         [](const auto& p) {
                           return std::get<0>(p.param).name() + "_" +
                                  tiny_models()[size_t(std::get<1>(p.param))].family;
                         });

TEST_P(NarrowCaches, StayClose) {
  if (is_reference(target_)) {
    const std::vector<int32_t> tokens = random_tokens(5, 20, tiny_.vocab);
    Runner narrow(target_.create(), tiny_, {.kv = DType::bf16});
    EXPECT_EQ(narrow.step({{0, tokens}}).front(), solo(tokens)) << "the reference keeps every cached type in double";
    return;
  }
  const std::vector<int32_t> tokens = random_tokens(5, 40, tiny_.vocab);
  const std::vector<float> exact = solo(tokens);
  const std::vector<double> want(exact.begin(), exact.end());
  for (const auto& [dtype, unit] : {std::pair(DType::f16, kRoundF16), std::pair(DType::bf16, kRoundBf16)}) {
    Runner narrow(target_.create(), tiny_, {.kv = dtype});
    const double error = relative_to_rms(narrow.step({{0, tokens}}).front(), want);
    EXPECT_LT(error, tiny_.layers * 30 * unit) << to_string(dtype);
    EXPECT_GT(error, 0.0) << to_string(dtype);
  }
}

}  // namespace
}  // namespace bumblebee::models
