// Names of formats and the bytes of a row.
#include "quant/format.h"

#include <gtest/gtest.h>

namespace bumblebee {
namespace {

TEST(Format, Names) {
  EXPECT_EQ(to_string(Format::dense(DType::bf16)), "bf16");
  EXPECT_EQ(to_string(Format::affine(4, 64, DType::f16, DType::f16)), "affine 4-bit group 64 (f16)");
}

TEST(Format, RowBytes) {
  EXPECT_EQ(row_bytes(Format::dense(DType::f32), 7), 28u);
  EXPECT_EQ(row_bytes(Format::dense(DType::f16), 7), 14u);
  EXPECT_EQ(row_bytes(Format::affine(3, 32, DType::f16, DType::f16), 32), 12u);
  EXPECT_EQ(row_bytes(Format::affine(5, 64, DType::f16, DType::f16), 128), 80u);
  EXPECT_EQ(row_bytes(Format::affine(8, 64, DType::f16, DType::f16), 1 << 24), size_t{1} << 24);
}

TEST(Format, EqualityIsByEveryField) {
  const Format format = Format::affine(4, 64, DType::f16, DType::f16);
  EXPECT_EQ(format, Format::affine(4, 64, DType::f16, DType::f16));
  EXPECT_NE(format, Format::affine(5, 64, DType::f16, DType::f16));
  EXPECT_NE(format, Format::affine(4, 32, DType::f16, DType::f16));
  EXPECT_NE(format, Format::affine(4, 64, DType::bf16, DType::f16));
  EXPECT_NE(format, Format::affine(4, 64, DType::f16, DType::f32));
  EXPECT_NE(format, Format::dense(DType::f16));
}

}  // namespace
}  // namespace bumblebee
