// The linear combination against the sum of the dense changes.
#include "lora/merge.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lora/dense.h"
#include "tests/lora/adapter_files.h"
#include "tests/support/golden_file.h"

namespace bumblebee::lora {
namespace {

using namespace testing;

/// scale·BA as f64 [rows·cols]; zeros where the adapter does not change the module.
std::vector<double> dense(const Adapter& adapter, const std::string& path, size_t size) {
  std::vector<double> values(size);
  const auto it = adapter.modules.find(path);
  if (it == adapter.modules.end()) return values;
  const DenseDelta change(it->second, false, adapter.dialect);
  for (int r = 0; r < change.rows(); ++r) {
    change.delta(r, std::span(values).subspan(size_t(r) * size_t(change.cols()), size_t(change.cols())));
  }
  return values;
}

TEST(Merge, KeepsWhatItsPartsNeedUnderneath) {
  Adapter first = golden_adapter("mlx_lora"), second = first, third = first;
  EXPECT_FALSE(merge({{first}, {second}}).adapter.facts.contains("on_top_of"));
  second.facts["on_top_of"] = "style:1";
  third.facts["on_top_of"] = "facts:0.5";
  EXPECT_EQ(merge({{first}, {second}, {third}, {second}}).adapter.facts.at("on_top_of"), "style:1, facts:0.5");
}

TEST(Merge, IsTheLinearCombination) {
  const std::vector<Weighted> parts = {
      {golden_adapter("mlx_lora"), 0.7}, {golden_adapter("peft_regex"), -1.3}, {golden_adapter("peft_rslora"), 2}};
  const Merged merged = merge(parts);
  ASSERT_EQ(merged.notes.size(), 1u);
  EXPECT_EQ(merged.adapter.name, "mlx_lora+peft_regex+peft_rslora");
  size_t paths = 0;
  for (const auto& [path, change] : merged.adapter.modules) {
    const size_t size = size_t(change.low_rank->a.cols) * size_t(change.low_rank->b.rows);
    const std::vector<double> got = dense(merged.adapter, path, size);
    std::vector<double> want(size);
    double bound = 0;
    int rank = 0;
    for (const auto& [adapter, weight] : parts) {
      const std::vector<double> one = dense(adapter, path, size);
      double largest = 0;
      for (size_t i = 0; i < size; ++i) {
        want[i] += weight * one[i];
        largest = std::max(largest, std::abs(weight * one[i]));
      }
      const auto it = adapter.modules.find(path);
      if (it == adapter.modules.end()) continue;
      rank += it->second.low_rank->rank();
      // Each product of the sum over the rank is rounded once; products are at most a few times their sum here.
      bound += 16 * largest * 0x1p-24;
    }
    EXPECT_EQ(change.low_rank->rank(), rank) << path;
    for (size_t i = 0; i < size; ++i) ASSERT_NEAR(got[i], want[i], bound) << path << " " << i;
    ++paths;
  }
  EXPECT_EQ(paths, 6u) << "q, v and down of two layers";
}

TEST(Merge, EqualAndBinaryFactorsAreExact) {
  const Adapter a = golden_adapter("mlx_lora");
  const Merged one = merge({{a, 1}});
  EXPECT_TRUE(one.notes.empty());
  EXPECT_EQ(one.adapter.modules, a.modules);
  const Merged twice = merge({{a, 0.5}, {a, 0.25}});
  EXPECT_TRUE(twice.notes.empty());
  for (const auto& [path, change] : twice.adapter.modules) {
    const size_t size = size_t(change.low_rank->a.cols) * size_t(change.low_rank->b.rows);
    const std::vector<double> got = dense(twice.adapter, path, size), want = dense(a, path, size);
    for (size_t i = 0; i < size; ++i) ASSERT_NEAR(got[i], 0.75 * want[i], 1e-13 * std::abs(want[i]) + 1e-15) << path;
  }
  const Merged none = merge({{a, 0}});
  for (const auto& [path, change] : none.adapter.modules) EXPECT_EQ(delta_norm(*change.low_rank), 0) << path;
}

/// Learned from two packagings of one base, they change the same modules; a file with both names would fit no base.
TEST(Merge, AcrossPackagings) {
  const Adapter plain = golden_adapter("mlx_lora");
  const auto packaged = [&](const std::string& before) {
    Adapter adapter = plain;
    adapter.modules.clear();
    for (const auto& [path, change] : plain.modules)
      adapter.modules[before + path.substr(before == "language_model." ? 0 : std::string("model.").size())] = change;
    return adapter;
  };
  const Adapter mlx = packaged("language_model."), transformers = packaged("model.language_model.");
  const auto same = merge({{plain, 1}, {plain, 0.5}}).adapter.modules;
  EXPECT_EQ(merge({{plain, 1}, {mlx, 0.5}}).adapter.modules, same);
  EXPECT_EQ(merge({{transformers, 1}, {mlx, 0.5}}).adapter.modules, same);
  for (const auto& [path, change] : merge({{mlx, 1}, {mlx, 0.5}}).adapter.modules)
    EXPECT_TRUE(mlx.modules.contains(path)) << "as all of them spell it: " << path;
  Adapter both = plain;
  both.modules.insert(mlx.modules.begin(), mlx.modules.end());
  test::expect_error([&] { merge({{both, 1}}); }, "got two", "one module, two names");
}

TEST(Merge, RefusesWhatDoesNotCombine) {
  const Adapter lora = golden_adapter("mlx_lora");
  const auto refused = [&](const std::vector<Weighted>& parts, const std::string& part) {
    test::expect_error([&] { merge(parts); }, part, part);
  };
  refused({}, "got none");
  refused({{lora, 1}, {golden_adapter("peft_dora"), 1}}, "DoRA does not combine linearly");
  refused({{golden_adapter("mlx_full"), 1}}, "do not combine linearly");
  refused({{lora, 1}, {golden_adapter("peft_saved"), 1}}, "do not combine linearly");
  refused({{lora, NAN}}, "expected a finite number");
  Adapter other = lora;
  std::swap(other.modules.at("model.layers.0.mlp.down_proj"), other.modules.at("model.layers.0.self_attn.q_proj"));
  refused({{lora, 1}, {other, 1}}, "as in the first adapter");
  Adapter peft = golden_adapter("peft_lora");
  peft.modules["model.embed_tokens"] = golden_adapter("mlx_head").modules.at("model.embed_tokens");
  refused({{golden_adapter("mlx_head"), 1}, {peft, 1}}, "different things by an adapted embedding");
}

TEST(Merge, OfOtherBasesNeedsAModuleThatBothChange) {
  Adapter a = golden_adapter("mlx_lora"), b = a;
  a.base = "org/one";
  for (const char* same : {"", "org/one", "/models/one/"}) {
    b.base = same;
    EXPECT_TRUE(merge({{a, 1}, {b, 1}}).other_bases.empty()) << same;
  }
  b.base = "org/two";
  const Merged merged = merge({{a, 1}, {b, 1}});
  EXPECT_EQ(merged.other_bases, std::vector<std::string>{"org/two"});
  EXPECT_EQ(merged.adapter.base, "");
  EXPECT_TRUE(merged.notes.empty()) << "nothing was rounded";
  const auto take = [](Adapter& from, const char* kept) {
    std::erase_if(from.modules, [&](const auto& module) { return module.first.find(kept) == std::string::npos; });
    EXPECT_FALSE(from.modules.empty()) << kept;
  };
  take(a, "q_proj");
  take(b, "v_proj");
  test::expect_error([&] { merge({{a, 1}, {b, 1}}); }, "one of 'org/two' that shares none", "no module in common");
  b.base = "mirror/one";
  EXPECT_EQ(merge({{a, 1}, {b, 1}}).adapter.modules.size(), a.modules.size() + b.modules.size())
      << "parts of one base may lie apart";
}

TEST(Merge, AddsTheBiasesOfB) {
  const Adapter a = golden_adapter("peft_lora_bias");
  const Merged merged = merge({{a, 1}, {a, 1}});
  for (const auto& [path, change] : a.modules) {
    const LowRank &one = *change.low_rank, &sum = *merged.adapter.modules.at(path).low_rank;
    ASSERT_EQ(sum.b_bias.size(), one.b_bias.size());
    for (size_t i = 0; i < one.b_bias.size(); ++i) {
      EXPECT_FLOAT_EQ(sum.scale * sum.b_bias[i], 2 * one.scale * one.b_bias[i]) << path;
    }
  }
}

}  // namespace
}  // namespace bumblebee::lora
