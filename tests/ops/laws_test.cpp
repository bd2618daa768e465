// What must hold between results of one backend, whatever their values: rows do not see each other, pages can be copied
// and reused, writing in place really happens.
#include <gtest/gtest.h>

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
    backend_->ops().matmul(backend_->upload(x.values, x.rows, x.cols), std::span(&term, 1), std::span(&y, 1));
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

/// docs/numerics.md promises it bit for bit for matmul: a request must repeat in any batch.
TEST_P(Laws, ARowsProductDoesNotDependOnItsBatch) {
  Random random(21);
  for (const Format& format :
       {Format::affine(4, 64, DType::bf16, DType::bf16), Format::affine(3, 32, DType::f16, DType::f16),
        Format::dense(DType::bf16), Format::dense(DType::f32)}) {
    const HostWeight host = random_weight(random, 45, 1216, format, 0.03, odd_bytes());
    const Weight weight = backend_->prepare(host);
    const HostMatrix all = random_rows(random, 40, 1216);
    const std::vector<float> together = matmul(all, weight);
    for (const int count : {1, 2, 3, 4, 5, 9, 17, 39}) {
      for (const int first : {0, 7, 40 - count}) {
        if (first + count > 40) continue;
        const HostMatrix some{count, all.cols, {all.row(first), all.row(first + count)}};
        const std::vector<float> alone = matmul(some, weight);
        ASSERT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + int64_t(first) * 45))
            << to_string(format) << " rows " << first << "+" << count;
      }
    }
  }
}

TEST_P(Laws, ABrokenRowStaysAlone) {
  Random random(22);
  const Weight weight =
      backend_->prepare(random_weight(random, 20, 128, Format::affine(4, 32, DType::f16, DType::f16), 0.1));
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
  backend_->ops().add(x, delta);
  EXPECT_EQ(x.buffer().get(), before);
  const Tensor other = x;
  backend_->ops().add(x, delta);
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
  const std::vector<float> whole = read_output(*backend_, "y", backend_->ops().rms_norm(x, norm)).values;
  const std::vector<float> part =
      read_output(*backend_, "y", backend_->ops().rms_norm(x.slice_rows(2, 3), norm)).values;
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 2 * 33));
}

/// Attends one row at `past` over `pages` and returns the result.
std::vector<float> attend_one(Backend& backend, KvStore& kv, int past, const std::vector<int32_t>& pages,
                              const HostMatrix& qkv) {
  Batch batch;
  batch.append(std::vector<int32_t>(size_t(qkv.rows), 0), past, pages, Batch::Want::none);
  backend.bind(batch, &kv);
  const Tensor t = backend.upload(qkv.values, qkv.rows, qkv.cols);
  return read_output(
             backend, "out",
             backend.ops().attend(kv, 0, t, t, t, {.heads = 1, .kv_heads = 1, .head_dim = qkv.cols, .scale = 0.3f}))
      .values;
}

TEST_P(Laws, ACopiedPageContinuesLikeTheOriginal) {
  Random random(24);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto kv =
        backend_->make_kv({.layers = 1, .kv_heads = 1, .head_dim = 16, .page_size = 16, .pages = 4, .dtype = dtype});
    const HostMatrix first = random_rows(random, 5, 16), next = random_rows(random, 1, 16),
                     other = random_rows(random, 1, 16);
    attend_one(*backend_, *kv, 0, {2}, first);
    kv->copy_page(2, 0);
    attend_one(*backend_, *kv, 5, {0}, other);  // the fork goes another way
    EXPECT_EQ(attend_one(*backend_, *kv, 5, {2}, next), attend_one(*backend_, *kv, 5, {0}, next));
  }
}

TEST_P(Laws, ALongPastIsTheSameAloneAndInCompany) {
  constexpr int kPast = 1100, kOthers = 300;  // more tasks than any machine's threads: then nobody's past is split
  Random random(26);
  for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
    const auto kv = backend_->make_kv(
        {.layers = 1, .kv_heads = 1, .head_dim = 16, .page_size = 64, .pages = 18 + kOthers, .dtype = dtype});
    std::vector<int32_t> pages(18);
    for (int i = 0; i < 18; ++i) pages[size_t(i)] = 17 - i;
    attend_one(*backend_, *kv, 0, pages, random_rows(random, kPast, 16));
    const HostMatrix next = random_rows(random, 1, 16);
    const std::vector<float> alone = attend_one(*backend_, *kv, kPast, pages, next);

    Batch batch;
    batch.append({0}, kPast, pages, Batch::Want::none);
    for (int i = 0; i < kOthers; ++i) batch.append({0}, 0, {18 + i}, Batch::Want::none);
    backend_->bind(batch, kv.get());
    HostMatrix all = random_rows(random, 1 + kOthers, 16);
    std::copy_n(next.values.begin(), 16, all.values.begin());
    const Tensor x = backend_->upload(all.values, all.rows, 16);
    const std::vector<float> together =
        read_output(*backend_, "out",
                    backend_->ops().attend(*kv, 0, x, x, x, {.heads = 1, .kv_heads = 1, .head_dim = 16, .scale = 0.3f}))
            .values;
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin())) << to_string(dtype);
  }
}

TEST_P(Laws, AReusedPageForgetsItsPast) {
  Random random(25);
  const auto kv =
      backend_->make_kv({.layers = 1, .kv_heads = 1, .head_dim = 16, .page_size = 16, .pages = 2, .dtype = DType::f32});
  const HostMatrix mine = random_rows(random, 3, 16);
  const std::vector<float> want = attend_one(*backend_, *kv, 0, {0}, mine);
  HostMatrix poison = random_rows(random, 16, 16);
  std::fill(poison.values.begin(), poison.values.end(), NAN);
  attend_one(*backend_, *kv, 0, {0}, poison);
  EXPECT_EQ(attend_one(*backend_, *kv, 0, {0}, mine), want) << "without giving the page back";
  attend_one(*backend_, *kv, 0, {0}, poison);
  kv->release_page(0);
  EXPECT_EQ(attend_one(*backend_, *kv, 0, {0}, mine), want) << "after giving the page back";
}

}  // namespace
}  // namespace bumblebee
