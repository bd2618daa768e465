// MLX's affine quantization: w = scale·q + bias per group of consecutive inputs, codes packed as one little-endian bit
// stream per row. Scalar and exact: the reference for every kernel. Source: mlx/ops.cpp and its CPU, Metal and CUDA
// kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/format.h"

namespace bumblebee {

/// MLX's two quantizers differ in rounding and in groups without a positive entry; dequantization is the same.
///  cpu: ties to even, true maximum (best quality).  gpu: ties away from zero, the maximum starts at 0 (what Metal
///  wrote).
enum class AffineVariant : uint8_t { cpu, gpu };

bool affine_bits_ok(int bits);    // 2, 3, 4, 5, 6, 8
bool affine_group_ok(int group);  // 32, 64, 128

/// Packs `codes` (each below 2^bits; a multiple of 16 of them) into codes.size()·bits/8 bytes.
void pack_codes(std::span<const uint8_t> codes, int bits, std::span<std::byte> packed);

/// Unpacks `codes.size()` codes beginning at element `first` of a row's bit stream; `first` begins a
/// byte.
void unpack_codes(std::span<const std::byte> packed, int bits, int first, std::span<uint8_t> codes);

/// One quantized matrix that owns its bytes.
struct QuantizedMatrix {
  std::vector<std::byte> codes, scales, biases;
};

/// Quantizes W [out, in], row-major f32, exactly as MLX's `quantize` does; scales and biases are rounded to `storage`
/// (the dtype of the original weight), codes come from the unrounded ones. Throws Error(bad_config) when in % group !=
/// 0 or bits or group are not MLX's; Error(bad_file) when an entry is not finite.
QuantizedMatrix quantize_affine(std::span<const float> weights, int out, int in, int bits, int group, DType storage,
                                AffineVariant variant);

}  // namespace bumblebee
