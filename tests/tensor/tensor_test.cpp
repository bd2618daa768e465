// Handles: sharing, views and the question whether a tensor may be written in place.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

namespace bumblebee {
namespace {

struct Bytes final : Buffer {
  explicit Bytes(bool& gone) : gone_(gone) {}
  ~Bytes() override { gone_ = true; }
  bool& gone_;
};

TEST(Tensor, EmptyByDefault) {
  const Tensor tensor;
  EXPECT_FALSE(tensor);
  EXPECT_EQ(tensor.rows(), 0);
  EXPECT_EQ(tensor.size_bytes(), 0u);
  EXPECT_FALSE(tensor.unique());
}

TEST(Tensor, TheLastHandleFreesTheBuffer) {
  bool gone = false;
  {
    Tensor a(std::make_shared<Bytes>(gone), DType::f32, 3, 5);
    EXPECT_TRUE(a.unique());
    EXPECT_EQ(a.size_bytes(), 60u);
    {
      const Tensor b = a;
      EXPECT_FALSE(a.unique());
      EXPECT_FALSE(b.unique());
    }
    EXPECT_TRUE(a.unique());
    const Tensor c = std::move(a);
    EXPECT_TRUE(c.unique());
    EXPECT_FALSE(gone);
  }
  EXPECT_TRUE(gone);
}

TEST(Tensor, SlicesAreViewsOfRows) {
  bool gone = false;
  const Tensor a(std::make_shared<Bytes>(gone), DType::f16, 10, 3);
  const Tensor b = a.slice_rows(2, 5);
  EXPECT_EQ(b.rows(), 5);
  EXPECT_EQ(b.cols(), 3);
  EXPECT_EQ(b.offset_bytes(), 2u * 3u * 2u);
  EXPECT_EQ(b.buffer(), a.buffer());
  EXPECT_EQ(b.slice_rows(1, 4).offset_bytes(), 3u * 3u * 2u);
  EXPECT_EQ(a.slice_rows(10, 0).rows(), 0);
  EXPECT_FALSE(a.unique());
}

TEST(TensorDeathTest, RefusesSlicesOutside) {
  bool gone = false;
  const Tensor a(std::make_shared<Bytes>(gone), DType::f32, 10, 3);
  EXPECT_DEATH(a.slice_rows(8, 3), "check failed.*first 8 count 3 rows 10");
  EXPECT_DEATH(a.slice_rows(-1, 1), "check failed");
  EXPECT_DEATH(a.slice_rows(0, -1), "check failed");
}

}  // namespace
}  // namespace bumblebee
