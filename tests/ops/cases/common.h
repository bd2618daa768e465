// What the cases share: reading results, batches without attention, weights as doubles, the formats to go through.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tests/ops/cases/op_case.h"
#include "tests/support/memory_weights.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace bumblebee::op_cases {

using testing_support::HostMatrix;
using testing_support::kRoundF32;
using testing_support::Misalignment;
using testing_support::Random;
using testing_support::seed_of;
using testing_support::sum_error;

/// What most checkpoints have.
inline constexpr Format kQ4 = {Format::Kind::affine, DType::bf16, DType::bf16, 4, 64};

Output read_output(Backend& backend, const std::string& what, const Tensor& tensor);

/// Binds `rows` rows of one sequence without a cache, at the positions, slots and logit rows given (defaults: 0.., -1,
/// none).
struct PlainBatch {
  int rows = 0;
  std::vector<int32_t> tokens = {}, positions = {}, slot = {}, logit_rows = {};
  int stretched_from = -1;  // from 1: the row that begins another sequence, which is stretched
};
void bind_plain(Backend& backend, const PlainBatch& batch);

/// Activations as a model has them: normal, with an outlier of 50 standard deviations in every fourth row and, from
/// three rows on, one row of zeros.
HostMatrix random_rows(Random& random, int rows, int cols);

/// A weight in double: W itself and |scale|·code + |bias|, what rounding errors of the factored form scale with (|W|
/// when dense or of float codes).
struct WideWeight {
  int out = 0, in = 0;
  std::vector<double> value, magnitude;  // [out, in]
  std::vector<double> offset = {};       // mxfp4: what fast products add to |W| in that form; else empty
};
WideWeight widen(const HostWeight& weight);

/// What rounding both factors of a product to bf16 changes of it. Weights that are bf16 already lose nothing.
constexpr double kBothBf16 = 2 * testing_support::kRoundBf16 * (1 + testing_support::kRoundBf16);

/// The largest difference of element n of x·Wᵀ + bias, as matmul gives it, from `want`.
double product_bound(const float* x, const WideWeight& w, int n, const Format& format, const Precision& precision,
                     double want, double bias);

/// A low-rank term of an adapter in an entry that has its own for each expert, or head.
struct LowRankTerm {
  int rank = 0, in = 0, out = 0;
  float scale = 0;
  std::vector<float> a, b, bias = {};  // [rank, in] [out, rank] [out] or empty
  static LowRankTerm random(Random& random, int rank, int in, int out, bool bias);
  /// Adds what the term contributes to element n of its answer to x to `size`, the sum of magnitudes, and returns the
  /// error of that sum.
  double error(const float* x, size_t n, const Precision& precision, double& size) const;
};
/// [experts or heads] terms of each.
using TermsOfEach = std::vector<std::vector<LowRankTerm>>;
LoraEntry upload(Backend& backend, const TermsOfEach& terms);

/// "b4_g64_bf16", "f16".
std::string label(const Format& format);
/// Every width and group with each type of scales, once with biases of another type, the float codes, and the dense
/// types.
std::vector<Format> every_format();
/// Odd byte offsets, different for each part.
Misalignment odd_bytes();

}  // namespace bumblebee::op_cases
