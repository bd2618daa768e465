// What must hold between results of one backend, whatever their values: rows do not see each other, pages can be copied
// and reused, writing in place really happens.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>

#include "tests/ops/cases/common.h"
#include "tests/support/backends.h"

namespace bumblebee {
namespace {

using namespace op_cases;
using namespace testing_support;

class Laws : public testing::TestWithParam<Target> {
 protected:
  Laws() : backend_(GetParam().create()) {}

  std::vector<float> matmul(const HostMatrix& x, const Weight& weight) {
    bind_plain(*backend_, {.rows = x.rows});
    const MatmulTerm term{&weight, nullptr};
    Tensor y;
    backend_->stream().ops().matmul(backend_->upload(x.values, x.rows, x.cols), std::span(&term, 1), std::span(&y, 1));
    return read_output(*backend_, "y", y).values;
  }

  const std::unique_ptr<Backend> backend_;
};

std::vector<Target> with_reference() {
  std::vector<Target> list = targets();
  list.push_back({"ref", {.threads = 1, .fast = false, .instruction_set = "scalar"}});
  return list;
}

INSTANTIATE_TEST_SUITE_P(All, Laws, testing::ValuesIn(with_reference()), [](const auto& p) { return p.param.name(); });

/// Rows of more inputs than many rows of x decode at once: a few lanes at a time, some of which end before others.
TEST_P(Laws, ARowsProductDoesNotDependOnItsBatchWhereRowsOfWeightsAreLong) {
  Random random(22);
  for (const int in : {4160, 4224, 6144}) {
    for (const Format& format :
         {Format::affine(4, 32, DType::bf16, DType::bf16), Format::affine(4, 64, DType::bf16, DType::bf16),
          Format::affine(8, 32, DType::bf16, DType::bf16), Format::mxfp4()}) {
      if (!has_formats(GetParam().backend, {format})) continue;
      const Weight weight = backend_->pack(random_weight(random, 17, in, format, 0.03, odd_bytes()));
      const HostMatrix all = random_rows(random, 6, in);
      const std::vector<float> together = matmul(all, weight);
      for (int r = 0; r < all.rows; ++r) {
        const std::vector<float> alone = matmul({1, in, {all.row(r), all.row(r) + in}}, weight);
        ASSERT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + int64_t(r) * 17))
            << to_string(format) << " in " << in << " row " << r;
      }
    }
  }
}

/// docs/internals/numerics.md promises it bit for bit for matmul: a request must repeat in any batch.
TEST_P(Laws, ARowsProductDoesNotDependOnItsBatch) {
  Random random(21);
  for (const Format& format :
       {Format::affine(4, 64, DType::bf16, DType::bf16), Format::affine(3, 32, DType::f16, DType::f16), Format::mxfp4(),
        Format::mxfp8(), Format::nvfp4(), Format::dense(DType::bf16), Format::dense(DType::f32)}) {
    if (!has_formats(GetParam().backend, {format})) continue;
    const HostWeight host = random_weight(random, 45, 1216, format, 0.03, odd_bytes());
    const Weight weight = backend_->pack(host);
    const HostMatrix all = random_rows(random, 40, 1216);
    const std::vector<float> together = matmul(all, weight);
    // On a card in fast precision more than 32 rows are another kind (docs/internals/numerics.md), which the
    // conformance covers.
    const bool kinds = between_kinds_of_rows(GetParam(), 1) > 0;
    const std::vector<float> few = kinds ? matmul({32, all.cols, {all.row(0), all.row(32)}}, weight) : together;
    for (const int count : {1, 2, 3, 4, 5, 9, 17, 39}) {
      for (const int first : {0, 7, 40 - count}) {
        if (first + count > (kinds && count <= 32 ? 32 : 40)) continue;
        const HostMatrix some{count, all.cols, {all.row(first), all.row(first + count)}};
        const std::vector<float> alone = matmul(some, weight);
        const std::vector<float>& want = count <= 32 ? few : together;
        ASSERT_TRUE(std::equal(alone.begin(), alone.end(), want.begin() + int64_t(first) * 45))
            << to_string(format) << " rows " << first << "+" << count;
      }
    }
  }
}

/// Long rows, of which some cards take several in another kernel.
TEST_P(Laws, ALongRowsProductDoesNotDependOnItsBatch) {
  constexpr int kRows = 64, kFew = 32, kOut = 77;
  Random random(31);
  for (const DType scales : {DType::bf16, DType::f16}) {
    const Weight weight =
        backend_->pack(random_weight(random, kOut, 2560, Format::affine(4, 64, scales, scales), 0.03, odd_bytes()));
    const HostMatrix all = random_rows(random, kRows, 2560);
    const std::vector<float> many = matmul(all, weight);
    std::vector<float> few = matmul({kFew, all.cols, {all.row(0), all.row(kFew)}}, weight);
    const std::vector<float> rest = matmul({kFew, all.cols, {all.row(kFew), all.row(kRows)}}, weight);
    few.insert(few.end(), rest.begin(), rest.end());
    for (const int count : {1, 4, 5, 8, 16, 23, 31, 33, 48, 63}) {
      for (const int first : {0, kRows - count}) {
        const std::vector<float> alone = matmul({count, all.cols, {all.row(first), all.row(first + count)}}, weight);
        const std::vector<float>& want = count <= kFew ? few : many;
        ASSERT_TRUE(std::equal(alone.begin(), alone.end(), want.begin() + int64_t(first) * kOut))
            << to_string(scales) << " rows " << first << "+" << count;
      }
    }
  }
}

/// The same for prompts, whatever tiles a number of rows takes.
TEST_P(Laws, ARowsProductDoesNotDependOnTheTilesOfItsBatch) {
  Random random(29);
  for (const Format& format :
       {Format::affine(4, 64, DType::bf16, DType::bf16), Format::affine(4, 32, DType::f16, DType::f16),
        Format::affine(6, 128, DType::bf16, DType::bf16), Format::mxfp4(), Format::nvfp4(),
        Format::dense(DType::bf16)}) {
    if (!has_formats(GetParam().backend, {format})) continue;
    const Weight weight = backend_->pack(random_weight(random, 333, 384, format, 0.03, odd_bytes()));
    const HostMatrix all = random_rows(random, 290, 384);
    const std::vector<float> together = matmul(all, weight);
    for (const int count : {33, 64, 65, 128, 129, 257}) {
      for (const int first : {0, 31, 290 - count}) {
        const std::vector<float> alone = matmul({count, all.cols, {all.row(first), all.row(first + count)}}, weight);
        ASSERT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + int64_t(first) * 333))
            << to_string(format) << " rows " << first << "+" << count;
      }
    }
  }
}

/// A request's adapters give the same bits in any batch: alone, beside rows of other slots, in runs of any length.
TEST_P(Laws, ARowsAdaptersDoNotDependOnItsBatch) {
  constexpr int kRows = 40, kIn = 1216, kOut = 88, kSlots = 4;
  Random random(27);
  std::vector<std::vector<float>> a, b;
  std::vector<LoraEntry> entries(kSlots);
  for (int s = 0; s < kSlots; ++s) {
    for (const int rank : {8 + s, 3 * s + 1}) {
      a.push_back(random.normals(size_t(rank) * kIn, 0.03));
      b.push_back(random.normals(size_t(kOut) * size_t(rank), 0.1));
      entries[size_t(s)].terms.push_back(
          {backend_->pack_factors({.rank = rank, .in = kIn, .out = kOut, .a = a.back(), .b = b.back(), .bias = {}},
                                  LowRankUse::linear),
           0.7f});
    }
    const LoraEntry* const entry = &entries[size_t(s)];
    backend_->set_slot(s, {&entry, 1});
  }
  const HostMatrix x = random_rows(random, kRows, kIn), y = random_rows(random, kRows, kOut);
  const auto apply = [&](int first, int count, const std::vector<int32_t>& slot) {
    bind_plain(*backend_, {.rows = count, .slot = slot});
    Tensor out = backend_->upload({y.row(first), size_t(count) * kOut}, count, kOut);
    const LoraModule module{.site = 0};
    backend_->stream().ops().lora(backend_->upload({x.row(first), size_t(count) * kIn}, count, kIn), RowSet::all,
                                  {&module, 1}, {&out, 1});
    return read_output(*backend_, "y", out).values;
  };
  std::vector<int32_t> slot;
  for (int r = 0; r < kRows; ++r) slot.push_back(r < 19 ? 0 : r < 21 ? -1 : r < 30 ? 1 + r % 3 : r % 4 - 1);
  const std::vector<float> together = apply(0, kRows, slot);
  std::vector<float> few = together;
  if (between_kinds_of_rows(GetParam(), 1) > 0) {  // as above
    const std::vector<float> head = apply(0, 32, {slot.begin(), slot.begin() + 32}),
                             tail = apply(kRows - 32, 32, {slot.end() - 32, slot.end()});
    few.assign(head.begin(), head.end());
    few.insert(few.end(), tail.end() - (kRows - 32) * kOut, tail.end());
  }
  for (const int count : {1, 2, 3, 5, 7, 13, 18, 39}) {
    for (int first = 0; first + count <= kRows; first += count < 3 ? 1 : 3) {
      const std::vector<float> alone = apply(first, count, {slot.begin() + first, slot.begin() + first + count});
      const std::vector<float>& want = count <= 32 ? few : together;
      ASSERT_TRUE(std::equal(alone.begin(), alone.end(), want.begin() + int64_t(first) * kOut))
          << "rows " << first << "+" << count;
    }
  }
  EXPECT_TRUE(std::equal(together.begin() + 19 * kOut, together.begin() + 21 * kOut, y.row(19))) << "rows of the base";
}

/// DoRA's factor against W + scale·B A in double, whatever holds W.
TEST_P(Laws, DoraFactorsAreMagnitudesOverLengths) {
  Random random(28);
  constexpr int kOut = 53, kIn = 96, kRank = 5;
  const float scale = 1.7f;
  const std::vector<float> a = random.normals(kRank * kIn, 0.1), b = random.normals(kOut * kRank, 0.1);
  const HostLowRank factors{.rank = kRank, .in = kIn, .out = kOut, .a = a, .b = b, .bias = {}};
  for (const Format& format : {Format::affine(4, 32, DType::bf16, DType::bf16), Format::dense(DType::f32)}) {
    const HostWeight host = random_weight(random, kOut, kIn, format, 0.1);
    const WideWeight w = widen(host);
    for (const bool by_column : {false, true}) {
      const std::vector<float> magnitude = random.normals(by_column ? kIn : kOut, 1);
      std::vector<double> squares(magnitude.size());
      for (size_t n = 0; n < kOut; ++n) {
        for (size_t k = 0; k < kIn; ++k) {
          double value = w.value[n * kIn + k];
          for (size_t i = 0; i < kRank; ++i) value += double(scale) * double(b[n * kRank + i]) * double(a[i * kIn + k]);
          squares[by_column ? k : n] += value * value;
        }
      }
      const Tensor factor = backend_->dora_scale(backend_->pack(host), factors, scale, magnitude, by_column);
      const std::vector<float> got = read_output(*backend_, "factor", factor).values;
      ASSERT_EQ(got.size(), magnitude.size());
      for (size_t i = 0; i < got.size(); ++i) {
        // An element is off by rank + 4 roundings of parts no larger than a few of it; a length averages them.
        const double want = double(magnitude[i]) / std::sqrt(squares[i]);
        EXPECT_NEAR(got[i], want, 16 * (kRank + 4) * kRoundF32 * std::abs(want)) << i;
      }
    }
  }
}

TEST_P(Laws, ABrokenRowStaysAlone) {
  Random random(22);
  const Weight weight =
      backend_->pack(random_weight(random, 20, 128, Format::affine(4, 32, DType::f16, DType::f16), 0.1));
  for (const int rows : {3, 9}) {
    HostMatrix x = random_rows(random, rows, 128);
    const std::vector<float> clean = matmul(x, weight);
    for (const float bad : {float(NAN), float(INFINITY)}) {
      std::fill_n(x.values.begin() + 128, 128, bad);  // row 1
      const std::vector<float> got = matmul(x, weight);
      for (int r = 0; r < rows; ++r) {
        if (r == 1) continue;
        EXPECT_TRUE(std::equal(got.begin() + r * 20, got.begin() + (r + 1) * 20, clean.begin() + r * 20))
            << "row " << r << " of " << rows;
      }
    }
  }
}

TEST_P(Laws, TheLastHandleIsWrittenInPlace) {
  bind_plain(*backend_, {.rows = 2});
  const std::vector<float> ones(2 * 64, 1.0f);
  Tensor x = backend_->upload(ones, 2, 64);
  const Tensor delta = backend_->upload(ones, 2, 64);
  const Buffer* before = x.buffer().get();
  backend_->stream().ops().add(x, delta);
  EXPECT_EQ(x.buffer().get(), before);
  const Tensor other = x;
  backend_->stream().ops().add(x, delta);
  EXPECT_NE(x.buffer().get(), before);
  EXPECT_EQ(read_output(*backend_, "x", x).values, std::vector<float>(2 * 64, 3.0f));
  EXPECT_EQ(read_output(*backend_, "other", other).values, std::vector<float>(2 * 64, 2.0f));
}

TEST_P(Laws, SlicesOfRowsAreInputs) {
  Random random(23);
  bind_plain(*backend_, {.rows = 6});
  const HostMatrix m = random_rows(random, 6, 33);
  const NormParams norm{backend_->upload(random.normals(33, 1), 1, 33), 1e-6f};
  const Tensor x = backend_->upload(m.values, 6, 33);
  const std::vector<float> whole = read_output(*backend_, "y", backend_->stream().ops().rms_norm(x, norm)).values;
  const std::vector<float> part =
      read_output(*backend_, "y", backend_->stream().ops().rms_norm(x.slice_rows(2, 3), norm)).values;
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 2 * 33));
}

/// Attends one row at `past` over `pages` and returns the result.
KvShape small_cache(int page_size, int pages, DType dtype, int head_dim = 16) {
  return {.groups = {{.kind = KvGroup::Kind::attention, .layers = 1, .kv_heads = 1, .head_dim = head_dim, .window = 0}},
          .page_size = page_size,
          .pages = pages,
          .dtype = dtype};
}

std::vector<float> attend_one(Backend& backend, KvStore& kv, int past, const std::vector<int32_t>& pages,
                              const HostMatrix& qkv) {
  Batch batch;
  batch.append(std::vector<int32_t>(size_t(qkv.rows), 0), past, pages, Batch::Want::none);
  backend.stream().bind(batch, &kv);
  const Tensor t = backend.upload(qkv.values, qkv.rows, qkv.cols);
  return read_output(backend, "out",
                     backend.stream().ops().attend(kv, 0, t, t, t,
                                                   {.heads = 1, .kv_heads = 1, .head_dim = qkv.cols, .scale = 0.3f}))
      .values;
}

TEST_P(Laws, ACopiedPageContinuesLikeTheOriginal) {
  Random random(24);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto kv = backend_->make_kv(small_cache(16, 4, dtype));
    const HostMatrix first = random_rows(random, 5, 16), next = random_rows(random, 1, 16),
                     other = random_rows(random, 1, 16);
    attend_one(*backend_, *kv, 0, {2}, first);
    const PageCopy copy{2, 0};
    kv->copy_pages({&copy, 1});
    attend_one(*backend_, *kv, 5, {0}, other);  // the fork goes another way
    EXPECT_EQ(attend_one(*backend_, *kv, 5, {2}, next), attend_one(*backend_, *kv, 5, {0}, next));
  }
}

/// Of layers that differ, too.
TEST_P(Laws, ACopiedPageHasAllLayers) {
  if (lacks(GetParam().backend, Operation::mixed_cache)) GTEST_SKIP() << "one kind of layers on " << GetParam().backend;
  Random random(32);
  KvShape shape = small_cache(16, 4, DType::i8);
  shape.groups.push_back({.kind = KvGroup::Kind::attention, .layers = 2, .kv_heads = 2, .head_dim = 40});
  shape.places = {{1, 0}, {0, 0}, {1, 1}};
  const auto kv = backend_->make_kv(shape);
  const auto attend = [&](int layer, int past, int32_t page, const HostMatrix& qkv) {
    const KvGroup& group = shape.group_of(layer);
    Batch batch;
    batch.append(std::vector<int32_t>(size_t(qkv.rows), 0), past, std::vector<int32_t>{page}, Batch::Want::none);
    backend_->stream().bind(batch, kv.get());
    const Tensor t = backend_->upload(qkv.values, qkv.rows, qkv.cols);
    const AttentionParams params = {
        .heads = group.kv_heads, .kv_heads = group.kv_heads, .head_dim = group.head_dim, .scale = 0.3f};
    return read_output(*backend_, "out", backend_->stream().ops().attend(*kv, layer, t, t, t, params)).values;
  };
  std::vector<HostMatrix> next;
  for (const int layer : {0, 1, 2}) {
    const int cols = shape.group_of(layer).kv_heads * shape.group_of(layer).head_dim;
    attend(layer, 0, 2, random_rows(random, 5, cols));
    next.push_back(random_rows(random, 1, cols));
  }
  const PageCopy copy{2, 0};
  kv->copy_pages({&copy, 1});
  for (const int layer : {0, 1, 2})
    EXPECT_EQ(attend(layer, 5, 2, next[size_t(layer)]), attend(layer, 5, 0, next[size_t(layer)])) << "layer " << layer;
}

TEST_P(Laws, ALongPastIsTheSameAloneAndInCompany) {
  constexpr int kPast = 1100, kOthers = 300;  // more tasks than any machine's threads: then nobody's past is split
  Random random(26);
  for (const int dim : {16, 64, 128}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
      const auto kv = backend_->make_kv(small_cache(64, 18 + kOthers, dtype, dim));
      std::vector<int32_t> pages(18);
      for (int i = 0; i < 18; ++i) pages[size_t(i)] = 17 - i;
      attend_one(*backend_, *kv, 0, pages, random_rows(random, kPast, dim));
      const HostMatrix next = random_rows(random, 1, dim);
      const std::vector<float> alone = attend_one(*backend_, *kv, kPast, pages, next);
      for (const int others : {11, kOthers}) {
        Batch batch;
        batch.append(std::vector<int32_t>{0}, kPast, pages, Batch::Want::none);
        for (int i = 0; i < others; ++i)
          batch.append(std::vector<int32_t>{0}, 0, std::vector<int32_t>{18 + i}, Batch::Want::none);
        backend_->stream().bind(batch, kv.get());
        HostMatrix all = random_rows(random, 1 + others, dim);
        std::copy_n(next.values.begin(), dim, all.values.begin());
        const Tensor x = backend_->upload(all.values, all.rows, dim);
        const std::vector<float> together =
            read_output(*backend_, "out",
                        backend_->stream().ops().attend(*kv, 0, x, x, x,
                                                        {.heads = 1, .kv_heads = 1, .head_dim = dim, .scale = 0.3f}))
                .values;
        EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin()))
            << to_string(dtype) << ", heads of " << dim << ", " << others << " others";
      }
    }
  }
}

/// A prompt in chunks of any size, beside other sequences and over other pages, gives what it gives at once. Chunks of
/// one row are what generation has, and another kind on cards.
TEST_P(Laws, ChunksOfAPromptGiveTheResultOfTheWhole) {
  constexpr int kHeads = 4, kKvHeads = 2, kDim = 32, kRows = 330, kOther = 45, kPage = 16, kPages = 80;
  Random random(30);
  struct Kind {
    int window = 0;
    float soft_cap = 0;
    bool sinks = false;
  };
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
    for (const auto& [window, soft_cap, sinks] : {Kind{}, {.window = 50}, {.soft_cap = 2}, {.sinks = true}}) {
      if (soft_cap > 0 && lacks(GetParam().backend, Operation::soft_cap)) continue;
      if (sinks && lacks(GetParam().backend, Operation::sinks)) continue;
      const HostMatrix q = random_rows(random, kRows + kOther, kHeads * kDim),
                       k = random_rows(random, kRows + kOther, kKvHeads * kDim),
                       v = random_rows(random, kRows + kOther, kKvHeads * kDim);
      const KvShape shape = {.groups = {{.kind = KvGroup::Kind::attention,
                                         .layers = 1,
                                         .kv_heads = kKvHeads,
                                         .head_dim = kDim,
                                         .window = window}},
                             .page_size = kPage,
                             .pages = kPages,
                             .dtype = dtype};
      const AttentionParams params = {
          .heads = kHeads,
          .kv_heads = kKvHeads,
          .head_dim = kDim,
          .scale = 0.2f,
          .window = window,
          .sinks = sinks ? backend_->upload(random.normals(kHeads, 1), 1, kHeads) : Tensor(),
          .soft_cap = soft_cap};
      // Rows `first` to `first` + `count` of the prompt, and where `company` all of another sequence before them.
      const auto step = [&](KvStore& kv, const std::vector<int32_t>& order, int first, int count, bool company) {
        Batch batch;
        const auto pages = [&](int at, int tokens) {
          return std::vector<int32_t>(order.begin() + at, order.begin() + at + (tokens + kPage - 1) / kPage);
        };
        const auto rows_of = [&](const HostMatrix& m) {
          std::vector<float> values;
          if (company) values.insert(values.end(), m.row(kRows), m.row(kRows + kOther));
          values.insert(values.end(), m.row(first), m.row(first + count));
          return backend_->upload(values, int(values.size()) / m.cols, m.cols);
        };
        if (company) batch.append(std::vector<int32_t>(kOther, 0), 0, pages(40, kOther), Batch::Want::none);
        batch.append(std::vector<int32_t>(size_t(count), 0), first, pages(0, first + count), Batch::Want::none);
        backend_->stream().bind(batch, &kv);
        std::vector<float> out =
            read_output(*backend_, "out",
                        backend_->stream().ops().attend(kv, 0, rows_of(q), rows_of(k), rows_of(v), params))
                .values;
        if (company) out.erase(out.begin(), out.begin() + int64_t(kOther) * q.cols);
        return out;
      };
      const auto whole_kv = backend_->make_kv(shape);
      const std::vector<float> whole = step(*whole_kv, random.permutation(kPages), 0, kRows, false);
      for (const std::vector<int>& chunks :
           {std::vector<int>{64, 64, 202}, {33, 40, 100, 50, 107}, {2, 31, 3, 64, 65, 33, 132}}) {
        const auto kv = backend_->make_kv(shape);
        const std::vector<int32_t> order = random.permutation(kPages);
        std::vector<float> joined;
        int first = 0;
        for (const int count : chunks) {
          const std::vector<float> part = step(*kv, order, first, count, count <= 32 || first % 2 == 0);
          joined.insert(joined.end(), part.begin(), part.end());
          first += count;
        }
        ASSERT_EQ(joined, whole) << to_string(dtype) << " window " << window << " chunks " << chunks.size();
      }
    }
  }
}

/// Of a stack, a product reads what was chosen: the others may be on pages that cannot be read at all.
TEST_P(Laws, ExpertsThatNobodyChoseAreNotRead) {
  if (lacks(GetParam().backend, Operation::matmul_experts)) GTEST_SKIP() << "no experts on " << GetParam().backend;
  if (require_device(GetParam().backend, {}).entry->own_memory)
    GTEST_SKIP() << "weights are copied when they are packed";
  constexpr int kExperts = 6, kIn = 128, kOut = 40, kTopK = 2;
  const Format format = Format::affine(4, 64, DType::bf16, DType::bf16);
  Random random(31);
  for (const int rows : {1, 3, 40}) {
    std::vector<float> scores(size_t(rows) * kExperts);
    for (int r = 0; r < rows; ++r) {
      for (int e = 0; e < kExperts; ++e)
        scores[size_t(r) * kExperts + size_t(e)] = e == 1 || e == 4 ? float(random.normal(1)) : -20.0f;
    }
    const size_t size = size_t(kOut) * kIn;
    void* const closed = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(closed, MAP_FAILED);
    const std::span<const std::byte> hidden(static_cast<const std::byte*>(closed), size);
    std::vector<Weight> packed;
    for (int e = 0; e < kExperts; ++e) {
      HostWeight weight = random_weight(random, kOut, kIn, format, 0.1);
      if (e != 1 && e != 4) {
        weight.codes = hidden.first(weight.codes.size());
        weight.scales = weight.biases = hidden.first(weight.scales.size());
      }
      packed.push_back(backend_->pack(weight));
    }
    const Weight stack = backend_->stack(packed);
    const Weight* const stacks[] = {&stack};
    bind_plain(*backend_, {.rows = rows});
    Tensor y;
    eagerly(*backend_, [&] {
      Ops& ops = backend_->stream().ops();
      const Routing routing =
          ops.route(backend_->upload(scores, rows, kExperts), {.experts = kExperts, .top_k = kTopK, .bias = {}});
      const HostMatrix x = random_rows(random, rows, kIn);
      ops.matmul_experts(backend_->upload(x.values, rows, kIn), ExpertRows::batch, routing, stacks, {&y, 1});
    });
    EXPECT_EQ(y.rows(), rows * kTopK);
    ::munmap(closed, size);
  }
}

TEST_P(Laws, AReusedPageForgetsItsPast) {
  for (const int dim : {16, 64})
    for (const DType dtype : {DType::f32, DType::bf16, DType::i8})
      for (const float bad : {float(NAN), float(INFINITY)}) {
        SCOPED_TRACE(cat(to_string(dtype), ", heads of ", dim, ", ", bad));
        Random random(25);
        const auto kv = backend_->make_kv(small_cache(16, 2, dtype, dim));
        const HostMatrix mine = random_rows(random, 3, dim);
        const std::vector<float> want = attend_one(*backend_, *kv, 0, {0}, mine);
        HostMatrix poison = random_rows(random, 16, dim);
        std::fill(poison.values.begin(), poison.values.end(), bad);
        attend_one(*backend_, *kv, 0, {0}, poison);
        EXPECT_EQ(attend_one(*backend_, *kv, 0, {0}, mine), want) << "without giving the page back";
        attend_one(*backend_, *kv, 0, {0}, poison);
        const int32_t page = 0;
        kv->release_pages({&page, 1});
        EXPECT_EQ(attend_one(*backend_, *kv, 0, {0}, mine), want) << "after giving the page back";
      }
}

}  // namespace
}  // namespace bumblebee
