// Element types, named as safetensors names them, lower case.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace bumblebee {

enum class DType : uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  c64
};

/// Bytes of one element.
constexpr int size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
    case DType::u64:
    case DType::c64: return 8;
    case DType::f32:
    case DType::i32:
    case DType::u32: return 4;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
    case DType::u16: return 2;
    default: return 1;
  }
}

/// True for the float types that weights, scales and activations may have here.
constexpr bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

/// "f32", "bf16", ... : the names used by the program's flags and messages.
std::string_view to_string(DType dtype);
std::optional<DType> dtype_from_string(std::string_view name);

}  // namespace bumblebee
