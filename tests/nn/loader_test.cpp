// Claiming by name, the facts a loader collects on the way, and loading without a backend.
#include "nn/loader.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/support/backends.h"
#include "tests/support/memory_weights.h"
#include "tests/support/page_flags.h"

namespace bumblebee::nn {
namespace {

using namespace testing_support;

const Format kQ4 = Format::affine(4, 32, DType::f16, DType::f16);

MemoryWeights some_weights() {
  Random random(1);
  MemoryWeights weights;
  weights.add_matrix("a", random_affine(random, 6, 64, kQ4, 1));
  weights.add_vector("a.bias", random_dense(random, 1, 6, DType::bf16, 1));
  weights.add_matrix("b", random_dense(random, 64, 6, DType::bf16, 1));
  weights.add_vector("n.weight", random_dense(random, 1, 6, DType::f16, 1));
  return weights;
}

TEST(Loader, CollectsSitesFormatsAndBytes) {
  for (const bool with_backend : {true, false}) {
    MemoryWeights weights = some_weights();
    const auto backend = create_reference();
    std::vector<uint64_t> seen;
    Loader load(weights, with_backend ? backend.get() : nullptr, [&](uint64_t bytes) { seen.push_back(bytes); });
    const Linear a = load.linear("a", 6, 64, true);
    const Linear b = load.linear("b", 64, 6, false);
    const RmsNorm n = load.rms_norm("n", 6, 1e-5);
    load.finish();
    EXPECT_EQ(a.name, "a");
    EXPECT_EQ(a.site, 0);
    EXPECT_EQ(b.site, 1);
    EXPECT_EQ(bool(a.w), with_backend);
    EXPECT_EQ(bool(a.bias), with_backend);
    EXPECT_FALSE(b.bias);
    EXPECT_FLOAT_EQ(n.params.eps, 1e-5f);
    ASSERT_EQ(load.target_modules().size(), 3u);
    EXPECT_TRUE(load.target_modules()[0].bias);
    EXPECT_FALSE(load.target_modules()[1].bias);
    EXPECT_EQ(load.target_modules()[2].kind, TargetModule::Kind::norm);
    EXPECT_EQ(n.site, 2);
    EXPECT_EQ(load.target_modules()[1].name, "b");
    EXPECT_EQ(load.target_modules()[1].in, 6);
    EXPECT_EQ(load.target_modules()[1].out, 64);
    EXPECT_EQ(load.formats(), (std::vector<Format>{kQ4, Format::dense(DType::bf16)}));
    EXPECT_EQ(seen, (std::vector<uint64_t>{6 * 40, 6 * 40 + 12, 6 * 40 + 12 + 768, 6 * 40 + 12 + 768 + 12}));
  }
}

TEST(Loader, TablesWithoutAHeadAreReadHereAndThere) {
  for (const bool tied : {false, true}) {
    Random random(1);
    MemoryWeights weights;
    weights.add_matrix("e", random_dense(random, 8192, 64, DType::bf16, 1));
    weights.add_matrix("lm_head", random_dense(random, 8192, 64, DType::bf16, 1));
    const HostWeight table = weights.matrix("e", 8192, 64), head = weights.matrix("lm_head", 8192, 64);
    weights.rewind();
    const auto backend = create_reference();
    Loader load(weights, backend.get());
    const Embedding e = load.embedding("e", 8192, 64);
    load.head("lm_head", e, 8192, 64, tied);
    load.finish();
    const std::string flags = page_flags(table.codes.data() + table.codes.size() / 2);
    if (flags.empty()) GTEST_SKIP() << "the system has no huge pages";
    EXPECT_EQ(flags.find(" nh ") != std::string::npos, !tied) << flags;
    EXPECT_EQ(page_flags(head.codes.data() + head.codes.size() / 2).find(" nh "), std::string::npos);
  }
}

TEST(Loader, ExpertsAreASiteAndAStack) {
  Random random(1);
  MemoryWeights weights;
  weights.add_stack("s", random_affine(random, 3 * 6, 64, kQ4, 1), 3);
  weights.add_matrix("gate", random_dense(random, 3, 64, DType::bf16, 1));
  const auto each = [](int e) { return cat("each.", e); };
  for (const bool with_backend : {true, false}) {
    weights.rewind();
    const auto backend = create_reference();
    uint64_t bytes = 0;
    Loader load(weights, with_backend ? backend.get() : nullptr, [&](uint64_t done) { bytes = done; });
    EXPECT_TRUE(load.operations().empty());
    const ExpertLinear s = load.experts("s", each, 3, 6, 64);
    const Linear gate = load.router("gate", 3, 64);
    load.finish();
    EXPECT_EQ(load.operations(), std::vector{Operation::matmul_experts});
    EXPECT_EQ(bytes, 3u * 6 * 40 + 3 * 64 * 2);
    EXPECT_EQ(s.w.experts, 3);
    EXPECT_EQ(bool(s.w), with_backend);
    EXPECT_EQ(s.site, 0);
    EXPECT_EQ(load.target_modules()[0].kind, TargetModule::Kind::experts);
    EXPECT_EQ(load.target_modules()[0].experts, 3);
    EXPECT_EQ(load.target_modules()[0].each, "each.#");
    EXPECT_FALSE(load.target_modules()[0].router);
    EXPECT_TRUE(load.target_modules()[1].router);
    EXPECT_EQ(load.target_weights().size(), 2u);
  }
}

TEST(Loader, ProgressMayCancel) {
  MemoryWeights weights = some_weights();
  Loader load(weights, nullptr, [](uint64_t) { throw Error(ErrorCode::cancelled, "load", "cancelled"); });
  EXPECT_THROW(load.linear("a", 6, 64, false), Error);
}

TEST(Loader, FinishNamesWhatNobodyClaimed) {
  MemoryWeights weights = some_weights();
  Loader load(weights, nullptr);
  load.linear("a", 6, 64, false);
  try {
    load.finish();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::bad_file);
    for (const char* name : {"a.bias", "b.weight", "n.weight"})
      EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("got 3"), std::string::npos) << e.what();
  }
}

TEST(Loader, FinishListsEightNamesAtMost) {
  Random random(1);
  MemoryWeights weights;
  for (int i = 0; i < 20; ++i) weights.add_vector(cat("stray.", i), random_dense(random, 1, 2, DType::f32, 1));
  try {
    Loader(weights, nullptr).finish();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("got 20"), std::string::npos) << text;
    EXPECT_TRUE(text.ends_with(", ...")) << text;
  }
}

TEST(Loader, ATiedHeadIsTheEmbeddingAndDropsStrayCopies) {
  Random random(1);
  MemoryWeights weights;
  weights.add_matrix("e", random_dense(random, 10, 4, DType::f32, 1));
  weights.add_matrix("lm_head", random_dense(random, 10, 4, DType::f32, 1));
  const auto backend = create_reference();
  Loader load(weights, backend.get());
  const Embedding embedding = load.embedding("e", 10, 4);
  const Linear head = load.head("lm_head", embedding, 10, 4, true);
  load.finish();
  EXPECT_EQ(head.w.packed, embedding.table.packed);
  EXPECT_EQ(load.target_modules().back().name, "lm_head");
  EXPECT_EQ(load.target_modules()[size_t(embedding.site)].kind, TargetModule::Kind::embedding);
  EXPECT_EQ(load.target_modules()[size_t(embedding.site)].in, 10);
  EXPECT_EQ(load.target_modules()[size_t(embedding.site)].out, 4);

  weights.rewind();
  Loader untied(weights, backend.get());
  const Embedding other = untied.embedding("e", 10, 4);
  EXPECT_NE(untied.head("lm_head", other, 10, 4, false).w.packed, other.table.packed);
  untied.finish();
}

}  // namespace
}  // namespace bumblebee::nn
