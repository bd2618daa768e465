// Names of element types.
#include "tensor/dtype.h"

#include <array>
#include <utility>

namespace bumblebee {
namespace {

constexpr std::array<std::pair<DType, std::string_view>, 17> kNames = {{{DType::f64, "f64"},
                                                                        {DType::f32, "f32"},
                                                                        {DType::f16, "f16"},
                                                                        {DType::bf16, "bf16"},
                                                                        {DType::f8_e4m3, "f8_e4m3"},
                                                                        {DType::f8_e5m2, "f8_e5m2"},
                                                                        {DType::f8_e8m0, "f8_e8m0"},
                                                                        {DType::i64, "i64"},
                                                                        {DType::i32, "i32"},
                                                                        {DType::i16, "i16"},
                                                                        {DType::i8, "i8"},
                                                                        {DType::u64, "u64"},
                                                                        {DType::u32, "u32"},
                                                                        {DType::u16, "u16"},
                                                                        {DType::u8, "u8"},
                                                                        {DType::boolean, "bool"},
                                                                        {DType::c64, "c64"}}};

}  // namespace

std::string_view to_string(DType dtype) {
  for (const auto& [value, name] : kNames) {
    if (value == dtype) return name;
  }
  return "unknown";
}

std::optional<DType> dtype_from_string(std::string_view wanted) {
  for (const auto& [value, name] : kNames) {
    if (name == wanted) return value;
  }
  return std::nullopt;
}

}  // namespace bumblebee
