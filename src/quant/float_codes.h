// Codes that are small floats, and their scales (OCP microscaling, NVFP4): what each byte stands for, and MLX's
// quantizers. Scalar and exact: the reference for every kernel. docs/formats.md.
#pragma once

#include <cstdint>
#include <span>

#include "quant/affine.h"
#include "quant/format.h"

namespace bumblebee {

/// Four bits: a sign, two of exponent, one of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
float decode_e2m1(uint8_t code);
/// Eight bits: a sign, four of exponent, three of mantissa, at most 448. The two NaN codes read as 480, as in MLX's
/// kernels: its quantizer never writes them.
float decode_e4m3(uint8_t code);
/// The nearest e4m3, of two equally near ones the even; magnitudes beyond 448 become 448.
uint8_t encode_e4m3(float value);
/// A power of two, 2^(byte - 127); 255 reads as infinity.
float decode_e8m0(uint8_t byte);

/// Quantizes W [out, in], row-major f32 that `storage` can hold, to mxfp4, mxfp8 or nvfp4 without a global scale,
/// exactly as MLX's `quantize` on the CPU does to a weight of type `storage`: a power of two is the first that leaves
/// no code saturated, e2m1 codes that are equally near go towards zero. (Where MLX's own scale wraps, in groups of
/// mxfp8 below 2^-119, it stays the smallest here.) Throws Error(bad_config) when in % group != 0, Error(bad_file) when
/// an entry is not finite.
QuantizedMatrix quantize_floats(std::span<const float> weights, int out, int in, const Format& format, DType storage);

/// Either quantizer, as `spec` says; affine scales are of type `storage`. Throws like both.
QuantizedMatrix quantize_as(const QuantSpec& spec, std::span<const float> weights, int out, int in, DType storage,
                            AffineVariant variant);

}  // namespace bumblebee
