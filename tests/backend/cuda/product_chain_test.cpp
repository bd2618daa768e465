// Products that follow each other, as one kernel: the bits that they have one by one.
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "backend/cuda/kernels/product_chain.h"
#include "tests/backend/cuda/needs_card.h"
#include "tests/backend/cuda/product_case.h"

namespace bumblebee::cuda {
namespace {

using Epilogue = ProductStage::Epilogue;

struct Lengths {
  int hidden, inner, q, kv, vocabulary;
};

/// What follows attention in a layer: o, gate and up, down, and the next layer's q, k and v, or the head.
class Links {
 public:
  Links(const Lengths& m, ScaleType scale, bool head) : scale_(scale) {
    const int last = head ? m.vocabulary : m.q + 2 * m.kv;
    mixed_ = floats(m.q, 1.0f), norm_ = floats(std::max(m.hidden, m.inner), 1.0f), first_ = values(m.hidden, 1.0f);
    hidden_ = floats(m.hidden, 0.0f), inner_ = floats(m.inner, 0.0f), out_ = floats(last, 0.0f);
    hidden_count_ = size_t(m.hidden), out_count_ = size_t(last);
    ProductStage o = stage(m.q, mixed_, false, {{m.hidden, hidden_}});
    ProductStage pair = stage(m.hidden, hidden_, true, {{m.inner, inner_}, {m.inner, inner_}});
    ProductStage down = stage(m.inner, inner_, false, {{m.hidden, hidden_}});
    o.epilogue = down.epilogue = Epilogue::add;
    o.residual = down.residual = hidden_;
    pair.epilogue = Epilogue::silu_mul;
    stages_ = {o, pair, down,
               head ? stage(m.hidden, hidden_, true, {{m.vocabulary, out_}})
                    : stage(m.hidden, hidden_, true, {{m.q, out_}, {m.kv, out_ + m.q}, {m.kv, out_ + m.q + m.kv}})};
  }
  const std::vector<ProductStage>& stages() const { return stages_; }

  struct LowRank {
    int rank;
    bool bias = false;
  };
  /// Lets stages apply adapters with these terms on every module but `without`; none: a slot that does nothing.
  /// `ranks`: what the table has room for. Those with too few blocks go without.
  void adapt(const std::vector<LowRank>& terms, int ranks, int without) {
    std::vector<LoraTerm> found;
    for (ProductStage& s : stages_) {
      s.lora = {};
      s.lora.ranks = ranks;
      if (!fits_lora(s)) {
        s.lora = {};
        continue;
      }
      for (int t = 0; t < s.terms; ++t) {
        s.lora.site[t] = int(found.size());
        found.push_back(int(found.size()) == without ? LoraTerm() : adapter(terms, s.in, s.term[t].out));
      }
    }
    const auto* const table =
        reinterpret_cast<const LoraTerm*>(bytes_of(found.data(), found.size() * sizeof(LoraTerm)));
    for (ProductStage& s : stages_) s.lora.terms = table;
  }
  /// With the two sets of words in turn, as stages that follow each other take them.
  ProductStage next(ProductStage s) {
    if (s.lora.ranks == 0) return s;
    s.lora.parts = parts_.get() + (second_ ? kLoraParts : 0);
    s.lora.stale = parts_.get() + (second_ ? 0 : kLoraParts);
    second_ = !second_;
    return s;
  }

  /// The residual and the last outputs after all of them, launched by `launch`.
  template <class F>
  std::vector<float> run(const F& launch) {
    require(cudaMemcpy(hidden_, first_.data(), hidden_count_ * sizeof(float), cudaMemcpyHostToDevice));
    require(cudaMemset(out_, 0xff, out_count_ * sizeof(float)));
    launch(stages_);
    require(cudaDeviceSynchronize());
    std::vector<float> result(hidden_count_ + out_count_);
    require(cudaMemcpy(result.data(), hidden_, hidden_count_ * sizeof(float), cudaMemcpyDeviceToHost));
    require(cudaMemcpy(result.data() + hidden_count_, out_, out_count_ * sizeof(float), cudaMemcpyDeviceToHost));
    return result;
  }

 private:
  struct Term {
    int out;
    float* y;
  };
  std::vector<float> values(int count, float spread) {
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> v(static_cast<size_t>(count));
    for (float& x : v) x = spread * normal(random_);
    return v;
  }
  float* floats(int count, float spread) {
    floats_.emplace_back(std::span<const float>{values(count, spread)});
    return floats_.back().get();
  }
  const void* bytes(const std::vector<std::byte>& v) {
    planes_.emplace_back(std::span<const std::byte>{v});
    return planes_.back().get();
  }
  const void* bytes_of(const void* data, size_t size) {
    const auto* const from = static_cast<const std::byte*>(data);
    return bytes(std::vector<std::byte>(from, from + size));
  }
  const void* bf16s(size_t count, float spread) {
    std::vector<uint16_t> v;
    for (const float x : values(int(count), spread)) v.push_back(f32_to_bf16(x));
    return bytes_of(v.data(), v.size() * sizeof(uint16_t));
  }
  LoraTerm adapter(const std::vector<LowRank>& terms, int in, int out) {
    if (terms.empty()) return {};
    std::vector<LowRankView> views;
    for (const LowRank& term : terms) {
      LowRankView v;
      v.a = bf16s(size_t(term.rank) * size_t(in), 0.02f);
      std::vector<uint16_t> b;
      for (int n = 0; n < out; ++n)
        for (int i = 0; i < padded_rank(term.rank); ++i)
          b.push_back(i < term.rank ? f32_to_bf16(0.1f * normal_(random_)) : uint16_t(0));
      v.b = bytes_of(b.data(), b.size() * sizeof(uint16_t));
      v.bias = term.bias ? floats(out, 0.1f) : nullptr;
      v.rank = term.rank, v.scale = 0.5f, v.element = Element::bf16;
      views.push_back(v);
    }
    SiteView site;
    site.present = 1, site.terms = int(views.size()), site.first = views[0];
    site.term = static_cast<const LowRankView*>(bytes_of(views.data(), views.size() * sizeof(LowRankView)));
    const auto* const on_card = static_cast<const SiteView*>(bytes_of(&site, sizeof(site)));
    const LowRankView& first = views[0];
    return {first.a, first.b, on_card, first.rank, padded_rank(first.rank), first.bias, first.scale, site.terms};
  }
  const void* scales(size_t count, float spread) {
    std::vector<std::byte> plane(count * 2);
    const std::vector<float> v = values(int(count), spread);
    for (size_t i = 0; i < count; ++i) {
      const uint16_t bits = scale_ == ScaleType::bf16 ? f32_to_bf16(v[i]) : f32_to_f16(v[i]);
      std::memcpy(plane.data() + 2 * i, &bits, 2);
    }
    return bytes(plane);
  }
  ProductStage stage(int in, const float* x, bool normed, std::initializer_list<Term> terms) {
    ProductStage s;
    s.in = in, s.rows = 1, s.scale = scale_, s.apart = true;
    s.input = {.kind = normed ? StageInput::Kind::rms_norm : StageInput::Kind::plain,
               .x = x,
               .norm = norm_,
               .eps = 1e-6f,
               .rounded = {}};
    for (const Term& term : terms) {
      std::vector<std::byte> codes(size_t(term.out) * size_t(in) / 2);
      for (std::byte& code : codes) code = std::byte(random_() & 0xff);
      const size_t groups = size_t(term.out) * size_t(in) / 64;
      s.term[s.terms++] = {.codes = bytes(codes),
                           .scales = scales(groups, 0.01f),
                           .biases = scales(groups, 0.05f),
                           .bias = floats(term.out, 0.1f),
                           .y = term.y,
                           .stride = term.out,
                           .out = term.out};
    }
    return s;
  }

  const ScaleType scale_;
  std::mt19937 random_{7};
  std::normal_distribution<float> normal_{0, 1};
  OnDevice<float> parts_{2 * size_t(kLoraParts)};
  bool second_ = false;
  std::vector<OnDevice<float>> floats_;
  std::vector<OnDevice<std::byte>> planes_;
  std::vector<float> first_;
  float *mixed_ = nullptr, *norm_ = nullptr, *hidden_ = nullptr, *inner_ = nullptr, *out_ = nullptr;
  size_t hidden_count_ = 0, out_count_ = 0;
  std::vector<ProductStage> stages_;
};

class ProductChain : public NeedsCard {
 protected:
  void SetUp() override {
    NeedsCard::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    int major = 0;
    require(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    const Links any({2048, 2048, 2048, 256, 512}, ScaleType::bf16, false);
    if (!fits_chain(any.stages()[0])) GTEST_SKIP() << "no chains on a card of " << major << ".x";
  }
};

TEST_F(ProductChain, HasTheBitsOfItsLinks) {
  const Lengths lengths[] = {
      {4096, 12288, 4096, 1024, 3000},
      {2560, 9728, 4096, 1024, 700},  // slabs that are not full
      {2048, 6144, 2048, 1024, 40},   // fewer tiles than blocks
  };
  OnDevice<std::byte> counters(chain_counters());
  for (const Lengths& m : lengths)
    for (const ScaleType scale : {ScaleType::bf16, ScaleType::f16})
      for (const bool head : {false, true}) {
        Links links(m, scale, head);
        for (const ProductStage& stage : links.stages()) ASSERT_TRUE(fits_chain(stage));
        const std::vector<float> apart = links.run([](const std::vector<ProductStage>& all) {
          for (const ProductStage& stage : all) require(launch_stage(stage, nullptr));
        });
        for (const float y : apart) ASSERT_TRUE(std::isfinite(y));
        for (int round = 0; round < 12; ++round) {  // chains of one to four, again and again
          const int first = round % kMostLinks;
          const std::vector<float> chained = links.run([&](const std::vector<ProductStage>& all) {
            if (first > 0) require(launch_chain(all.data(), first, {}, counters.get(), nullptr));
            require(launch_chain(all.data() + first, kMostLinks - first, {}, counters.get(), nullptr));
          });
          ASSERT_EQ(0, std::memcmp(apart.data(), chained.data(), apart.size() * sizeof(float)))
              << m.hidden << " hidden, scales " << int(scale) << (head ? ", head" : "") << ", first of " << first;
        }
      }
}

/// With adapters: single products and chains in turn, which share the words by which blocks tell sums of A x.
TEST_F(ProductChain, AppliesAdaptersAsItsLinksDo) {
  struct Case {
    std::vector<Links::LowRank> terms;
    int ranks, without = -1;
  };
  const Case cases[] = {
      {{{16}}, 16}, {{{5}}, 16, 1}, {{{4}, {11, true}, {1}}, 32}, {{{24, true}}, 24, 4},
      {{{40}}, 40}, {{{16}}, 32},  // blocks that have ranks which no term has, and sums of nothing to tell
      {{{16}}, 16}, {{}, 16}};
  const Lengths lengths[] = {{4096, 12288, 4096, 1024, 3000},
                             {2560, 9728, 4096, 1024, 700},
                             {2048, 6144, 2048, 1024, 40},
                             {2048, 8192, 2048, 512, 700}};
  OnDevice<std::byte> counters(chain_counters());
  for (const Lengths& m : lengths)
    for (const bool head : {false, true}) {
      Links links(m, ScaleType::bf16, head);
      const auto one_by_one = [&](const std::vector<ProductStage>& all) {
        for (const ProductStage& stage : all) require(launch_stage(links.next(stage), nullptr));
      };
      const std::vector<float> base = links.run(one_by_one);
      for (const Case& c : cases) {
        links.adapt(c.terms, c.ranks, c.without);
        EXPECT_GT(links.stages()[0].lora.ranks, 0);
        for (const ProductStage& stage : links.stages()) ASSERT_TRUE(fits_chain(stage)) << c.ranks;
        const std::vector<float> apart = links.run(one_by_one);
        for (const float y : apart) ASSERT_TRUE(std::isfinite(y));
        EXPECT_EQ(apart == base, c.terms.empty());
        for (int round = 0; round < 8; ++round) {
          const size_t first = size_t(round) % kMostLinks;
          const Beside beside = round % 2 == 0 ? Beside::any : Beside::attend_mma;
          const std::vector<float> chained = links.run([&](const std::vector<ProductStage>& all) {
            std::vector<ProductStage> set;
            for (const ProductStage& stage : all) set.push_back(links.next(stage));
            if (round == 7) require(launch_stage(set[0], nullptr));
            if (round < 7 && first > 0)
              require(launch_chain(set.data(), int(first), {}, counters.get(), nullptr, beside));
            const size_t done = round == 7 ? 1 : first;
            require(launch_chain(set.data() + done, int(kMostLinks - done), {}, counters.get(), nullptr, beside));
          });
          ASSERT_EQ(0, std::memcmp(apart.data(), chained.data(), apart.size() * sizeof(float)))
              << m.hidden << " hidden, " << c.ranks << " ranks" << (head ? ", head" : "") << ", round " << round;
        }
      }
    }
}

/// Pages are read for L2 alone, each where the batch says it is.
TEST_F(ProductChain, BringsAPastAlong) {
  constexpr int kPages = 40, kPageSize = 16, kPiece = 4096, kPieces = 4, kAt = 256;
  Links links({2048, 6144, 2048, 1024, 40}, ScaleType::bf16, false);
  OnDevice<std::byte> counters(chain_counters()), memory(size_t(kPages) * (kAt + kPieces * kPiece));
  std::vector<const uint8_t*> pages;
  for (int i = kPages; i > 0; --i)
    pages.push_back(reinterpret_cast<const uint8_t*>(memory.get()) + size_t(i - 1) * (kAt + kPieces * kPiece));
  const OnDevice<const uint8_t*> table(std::span<const uint8_t* const>{pages});
  const std::vector<float> without = links.run([&](const std::vector<ProductStage>& all) {
    require(launch_chain(all.data(), kMostLinks, {}, counters.get(), nullptr));
  });
  for (const int32_t last : {-1, 0, kPageSize - 1, kPageSize, (kPages - 3) * kPageSize - 1})
    for (const int32_t window : {0, 20}) {
      const std::array<int32_t, 2> row = {last, 3};  // its pages begin with the fourth
      const OnDevice<int32_t> of_row(std::span<const int32_t>{row});
      const PastAhead ahead = {.pages = table.get(),
                               .cached = of_row.get(),
                               .first_page = of_row.get() + 1,
                               .at = kAt,
                               .page_size = kPageSize,
                               .window = window,
                               .pieces = kPieces,
                               .piece = kPiece};
      const std::vector<float> with = links.run([&](const std::vector<ProductStage>& all) {
        require(launch_chain(all.data(), kMostLinks, ahead, counters.get(), nullptr));
      });
      EXPECT_EQ(0, std::memcmp(without.data(), with.data(), with.size() * sizeof(float))) << last << ", " << window;
    }
}

TEST_F(ProductChain, RefusesWhatIsNoLink) {
  const Links links({2048, 2048, 2048, 256, 512}, ScaleType::bf16, false);
  OnDevice<std::byte> counters(chain_counters());
  const ProductStage good = links.stages()[0];
  const auto refused = [&](const auto& change) {
    ProductStage s = good;
    change(s);
    return !fits_chain(s) && launch_chain(&s, 1, {}, counters.get(), nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_TRUE(refused([](ProductStage& s) { s.rows = 2; }));
  EXPECT_TRUE(refused([](ProductStage& s) { s.exact = true; }));
  EXPECT_TRUE(refused([](ProductStage& s) { s.bits = 8; }));
  EXPECT_TRUE(refused([](ProductStage& s) { s.group = 32; }));
  EXPECT_TRUE(refused([](ProductStage& s) { s.scale = ScaleType::f32; }));
  EXPECT_TRUE(refused([](ProductStage& s) { s.in = 1024; }));        // four classes
  EXPECT_TRUE(refused([](ProductStage& s) { s.lora.ranks = 12; }));  // no octets
  EXPECT_TRUE(refused([](ProductStage& s) { s.experts.slots = 1; }));
  EXPECT_TRUE(refused([](ProductStage& s) { s.input.kind = StageInput::Kind::digits; }));
  const std::vector<ProductStage> many(kMostLinks + 1, good);
  EXPECT_EQ(cudaErrorInvalidValue, launch_chain(many.data(), kMostLinks + 1, {}, counters.get(), nullptr));
  EXPECT_EQ(cudaErrorInvalidValue, launch_chain(many.data(), 0, {}, counters.get(), nullptr));
  EXPECT_EQ(cudaErrorInvalidValue, launch_chain(many.data(), 1, {}, nullptr, nullptr));
}

}  // namespace
}  // namespace bumblebee::cuda
