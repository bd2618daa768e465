// Products of quantized matrices that MLX made, against float64 products of the decoded weights, in both orientations:
// the reference and every target; the other orientation is that of a gradient. The file comes from
// tools/goldens/quant.py.
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "tests/support/backends.h"
#include "tests/support/golden_file.h"
#include "tests/support/tolerance.h"

namespace bumblebee {
namespace {

using namespace testing_support;

const GoldenFile& goldens() {
  static const GoldenFile file("quant_matmul.safetensors");
  return file;
}

/// Checks all widths and groups; `allowed` is relative to the root mean square of each product.
void expect_products(Backend& backend, bool fast) {
  const GoldenTensor& x = goldens().at("x");
  const GoldenTensor& x_flipped = goldens().at("x_flipped");
  Batch batch;
  batch.append(std::vector<int32_t>(size_t(x.rows()), 0), 0, std::vector<int32_t>{0}, Batch::Want::none);
  backend.stream().bind(batch, nullptr);
  const Tensor input = backend.upload(x.floats(), x.rows(), x.cols()),
               flipped = backend.upload(x_flipped.floats(), x.rows(), x_flipped.cols());
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) {
      const std::string key = cat("b", bits, ".g", group);
      SCOPED_TRACE(key);
      const GoldenTensor& scales = goldens().at(key + ".scales");
      const HostWeight host{Format::affine(bits, group, scales.dtype, scales.dtype),
                            scales.rows(),
                            x.cols(),
                            goldens().at(key + ".weight").bytes,
                            scales.bytes,
                            goldens().at(key + ".biases").bytes,
                            key,
                            goldens().keep()};
      const Weight weight = backend.pack(host);
      const MatmulTerm term{&weight, nullptr};
      Tensor y;
      backend.stream().ops().matmul(input, std::span(&term, 1), std::span(&y, 1));
      std::vector<float> got(size_t(x.rows()) * size_t(host.out));
      backend.read(y, got);
      // In f32: 128 products and a few roundings, of terms whose magnitudes sum to about sqrt(128) times the result's
      // root mean square, and about 2^bits/sqrt(2^bits) more before codes and biases cancel. Fast: 1/254 of a group's
      // largest input, about 3 deviations, per entry.
      EXPECT_LT(relative_to_rms(got, goldens().at(key + ".y").doubles()),
                fast ? 4 * 3.0 / 254 : sum_error(128, 8) * std::sqrt(128.0) * 8);
      if (backend.stream().grad_ops() == nullptr) continue;
      got.resize(size_t(x.rows()) * size_t(host.in));
      const Weight* const weights = &weight;
      backend.read(backend.stream().grad_ops()->matmul_dx(std::span(&flipped, 1), std::span(&weights, 1)), got);
      // Fast: both factors in bf16.
      EXPECT_LT(relative_to_rms(got, goldens().at(key + ".y_flipped").doubles()),
                std::sqrt(double(host.out)) * (sum_error(host.out, 8) * 8 + (fast ? 2 * kRoundBf16 : 0)));
    }
  }
}

TEST(GoldenMatmul, Reference) { expect_products(*create_reference(), false); }

class GoldenMatmul : public testing::TestWithParam<Target> {};
INSTANTIATE_TEST_SUITE_P(All, GoldenMatmul, testing::ValuesIn(targets()), [](const auto& p) { return p.param.name(); });

TEST_P(GoldenMatmul, MatchesMlx) { expect_products(*GetParam().create(), GetParam().options.fast); }

}  // namespace
}  // namespace bumblebee
