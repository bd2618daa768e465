// The numbers that stored bytes stand for: single floats, and whole rows of a weight in any format.
#pragma once

#include <cstddef>
#include <span>

#include "quant/format.h"

namespace bumblebee {

/// Element i of a possibly unaligned float array of type `dtype` (f32, f16, bf16; of scales also f8_e8m0, f8_e4m3).
float load_float(std::span<const std::byte> bytes, DType dtype, size_t i);
/// Rounds to `dtype` (nearest even) and stores.
void store_float(std::span<std::byte> bytes, DType dtype, size_t i, float value);

/// Row `row` of a weight as f32 [in]: scale·q + bias, or float code · (scale · global factor), with one rounding per
/// operation in T.
template <class T>
void decode_row(const HostWeight& weight, int row, std::span<T> values);

}  // namespace bumblebee
