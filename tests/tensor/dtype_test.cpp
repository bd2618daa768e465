// Names round trip, sizes are what the file formats say.
#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <set>

namespace bumblebee {
namespace {

constexpr DType kAll[] = {DType::f64,     DType::f32, DType::f16, DType::bf16,    DType::f8_e4m3, DType::f8_e5m2,
                          DType::f8_e8m0, DType::i64, DType::i32, DType::i16,     DType::i8,      DType::u64,
                          DType::u32,     DType::u16, DType::u8,  DType::boolean, DType::c64};

TEST(DType, NamesRoundTripAndDiffer) {
  std::set<std::string_view> names;
  for (const DType dtype : kAll) {
    EXPECT_EQ(dtype_from_string(to_string(dtype)), dtype) << to_string(dtype);
    names.insert(to_string(dtype));
  }
  EXPECT_EQ(names.size(), std::size(kAll));
  EXPECT_EQ(to_string(DType::bf16), "bf16");
}

TEST(DType, RefusesUnknownNames) {
  for (const char* name : {"", "BF16", "float32", "f7", "f32 ", "unknown"})
    EXPECT_FALSE(dtype_from_string(name)) << name;
}

TEST(DType, Sizes) {
  int sum = 0;
  for (const DType dtype : kAll) sum += size_of(dtype);
  EXPECT_EQ(sum, 4 * 8 + 3 * 4 + 4 * 2 + 6 * 1);
  EXPECT_EQ(size_of(DType::f16), 2);
  EXPECT_EQ(size_of(DType::boolean), 1);
  EXPECT_EQ(size_of(DType::c64), 8);
}

TEST(DType, FloatTypesOfWeights) {
  for (const DType dtype : kAll)
    EXPECT_EQ(is_float(dtype), dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16) << to_string(dtype);
}

}  // namespace
}  // namespace bumblebee
