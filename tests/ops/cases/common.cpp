// Shared by all cases.
#include "tests/ops/cases/common.h"

#include <algorithm>
#include <cmath>

#include "quant/elements.h"

namespace bumblebee::op_cases {

Output read_output(Backend& backend, const std::string& what, const Tensor& tensor) {
  Output output{what, tensor.rows(), tensor.cols(), std::vector<float>(size_t(tensor.rows()) * size_t(tensor.cols()))};
  if (!output.values.empty()) backend.read(tensor, output.values);
  return output;
}

void bind_plain(Backend& backend, const PlainBatch& plain) {
  Batch batch;
  batch.tokens = plain.tokens.empty() ? std::vector<int32_t>(size_t(plain.rows), 0) : plain.tokens;
  batch.positions = plain.positions;
  for (int i = int(batch.positions.size()); i < plain.rows; ++i) batch.positions.push_back(i);
  batch.slot = plain.slot.empty() ? std::vector<int32_t>(size_t(plain.rows), -1) : plain.slot;
  batch.logit_rows = plain.logit_rows;
  const int first = plain.stretched_from > 0 ? plain.stretched_from : plain.rows;
  batch.segments = {{0, first, 0, 0}};
  batch.pages = {0};
  if (first < plain.rows) {
    batch.segments.push_back({.first = first, .rows = plain.rows - first, .first_page = 1, .stretched = true});
    batch.pages.push_back(0);
  }
  backend.stream().bind(batch, nullptr);
}

HostMatrix random_rows(Random& random, int rows, int cols) {
  HostMatrix m{rows, cols, random.normals(size_t(rows) * size_t(cols), 1)};
  for (int r = 0; r < rows; r += 4) m.values[size_t(r) * size_t(cols) + size_t(random.integer(0, cols - 1))] *= 50;
  if (rows >= 3) std::fill_n(m.values.begin() + int64_t(rows - 2) * cols, cols, 0.0f);
  return m;
}

LowRankTerm LowRankTerm::random(Random& random, int rank, int in, int out, bool bias) {
  LowRankTerm term{rank,
                   in,
                   out,
                   float(random.uniform(0.5, 20)),
                   random.normals(size_t(rank) * size_t(in), 1 / std::sqrt(double(in))),
                   random.normals(size_t(out) * size_t(rank), 0.1)};
  if (bias) term.bias = random.normals(size_t(out), 0.1);
  return term;
}

double LowRankTerm::error(const float* x, size_t n, const Precision& precision, double& size) const {
  double magnitude = 0;
  for (size_t i = 0; i < size_t(rank); ++i) {
    double inner = 0;
    for (size_t k = 0; k < size_t(in); ++k) inner += std::abs(double(x[k]) * double(a[i * size_t(in) + k]));
    magnitude += inner * std::abs(double(b[n * size_t(rank) + i]));
  }
  const double inside = bias.empty() ? 0 : std::abs(double(bias[n]));
  const double rounded = precision.fast ? 2 * testing_support::kRoundBf16 : 0;  // factors, to bf16
  const double inner = sum_error(in), outer = sum_error(rank + 1, 4);
  size += double(scale) * (magnitude + inside);
  return double(scale) * ((inner + outer + rounded) * magnitude + outer * inside) + 2 * kRoundF32 * size;
}

LoraEntry upload(Backend& backend, const TermsOfEach& terms) {
  LoraEntry entry;
  for (const std::vector<LowRankTerm>& own : terms) {
    entry.experts.emplace_back();
    for (const LowRankTerm& t : own) {
      const HostLowRank host{.rank = t.rank, .in = t.in, .out = t.out, .a = t.a, .b = t.b, .bias = t.bias};
      entry.experts.back().push_back({backend.pack_factors(host, LowRankUse::linear), t.scale});
    }
  }
  return entry;
}

WideWeight widen(const HostWeight& weight) {
  const size_t in = size_t(weight.in);
  WideWeight wide{weight.out, weight.in, std::vector<double>(size_t(weight.out) * in), {}};
  for (int r = 0; r < weight.out; ++r) decode_row<double>(weight, r, std::span(wide.value).subspan(size_t(r) * in, in));
  wide.magnitude = wide.value;
  for (double& m : wide.magnitude) m = std::abs(m);
  if (weight.format.kind == Format::Kind::dense) return wide;
  const size_t group = weight.format.group;
  if (weight.format == Format::mxfp4()) {
    // Codes are from 0 to 24 there, less 12 and times half a scale: |code - 12| + 12 at most, and 12 once more.
    for (size_t i = 0; i < wide.value.size(); ++i)
      wide.offset.push_back(
          12.0 * double(load_float(weight.scales, weight.format.scale, i / in * (in / group) + i % in / group)));
  }
  if (weight.format.codes != Format::Codes::uint) return wide;
  for (size_t i = 0; i < wide.value.size(); ++i) {
    const size_t g = i / in * (in / group) + i % in / group;
    const double bias = load_float(weight.biases, weight.format.bias, g);
    wide.magnitude[i] = std::abs(wide.value[i] - bias) + std::abs(bias);
  }
  return wide;
}

std::string label(const Format& format) {
  if (format.kind == Format::Kind::dense) return std::string(to_string(format.scale));
  if (format.codes != Format::Codes::uint) return to_string(format);
  std::string text = "b" + std::to_string(format.bits) + "_g" + std::to_string(format.group) + "_" +
                     std::string(to_string(format.scale));
  if (format.bias != format.scale) text += "_" + std::string(to_string(format.bias));
  return text;
}

std::vector<Format> every_format() {
  std::vector<Format> formats;
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) {
      for (const DType scale : {DType::f32, DType::f16, DType::bf16})
        formats.push_back(Format::affine(bits, group, scale, scale));
    }
    formats.push_back(
        Format::affine(bits, 64, DType::f16, DType::f32));  // what an exact import of other tools' files gives
  }
  for (const Format& format : {Format::mxfp4(), Format::mxfp8(), Format::nvfp4()}) formats.push_back(format);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) formats.push_back(Format::dense(dtype));
  return formats;
}

Misalignment odd_bytes() { return {.codes = 1, .scales = 3, .biases = 5}; }

}  // namespace bumblebee::op_cases
