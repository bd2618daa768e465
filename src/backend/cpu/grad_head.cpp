// Cross-entropy of the head, some rows at a time over the whole vocabulary: their logits are computed once, as every
// product is, and turn in place into what the gradient is made of.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/grad_ops.h"

namespace bumblebee::cpu {
namespace {

// Logits that exist at once. A weight is decoded anew for each block of rows: more of them share the work.
constexpr size_t kLogitBytes = size_t{128} << 20;
constexpr int kMinRows = 48;
constexpr int kSumBlock = 4096;  // exponentials summed in f32 before they are added in f64
constexpr size_t kShift = 32;    // elements of bf16 that rows are moved by: those a power of two apart share lines

}  // namespace

double CpuGradOps::head_loss(const Tensor& h, const Weight& head, const Tensor& bias, const LogitParams& logits,
                             std::span<const int32_t> targets, std::span<const float> weights, std::span<float> losses,
                             Tensor* dh) {
  const size_t rows = size_t(h.rows()), vocab = size_t(head.out);
  BB_CHECK(targets.size() == rows && weights.size() == rows && losses.size() == rows && head.in == h.cols());
  std::vector<int> scored;
  for (size_t r = 0; r < rows; ++r) {
    BB_CHECK(targets[r] < head.out, "target ", targets[r], " of ", head.out);
    losses[r] = 0;
    if (targets[r] >= 0) scored.push_back(int(r));
  }
  if (dh != nullptr) {
    *dh = ops_.memory_->make(h.rows(), h.cols());
    for (size_t r = 0; r < rows; ++r) {
      if (targets[r] < 0) std::fill_n(row(*dh, int(r)), h.cols(), 0.0f);
    }
  }
  const int most = std::max(kMinRows, int(kLogitBytes / (vocab * sizeof(float))) / 12 * 12);
  // Of one size but for the last, which is smaller: all use the same memory in turn.
  const size_t blocks = (scored.size() + size_t(most) - 1) / size_t(most);
  const size_t size = blocks == 0 ? 0 : (scored.size() + blocks - 1) / blocks;
  for (size_t first = 0; first < scored.size(); first += size) {
    const size_t count = std::min(size, scored.size() - first);
    head_block(h, head, bias, logits, std::span(scored).subspan(first, count), targets, weights, losses, dh);
  }
  double sum = 0;
  for (const int r : scored) sum += double(weights[size_t(r)]) * double(losses[size_t(r)]);
  return sum;
}

/// A row's loss. z [vocab] becomes `total` times the gradient with respect to z: e^(z - highest), and at the target
/// what all others have together, negative, which is not formed as a difference of nearly equal numbers.
double CpuGradOps::loss_of_row(float* z, int vocab, int32_t target, double& total) {
  const float highest = k_.max_scaled(z, vocab, 1);
  const double distance = double(highest) - double(z[target]);
  z[target] = -INFINITY;
  double others = 0;
  for (int n = 0; n < vocab; n += kSumBlock)
    others += double(k_.softmax_part(z + n, std::min(kSumBlock, vocab - n), 1, highest));
  z[target] = float(-others);
  const double own = std::exp(-distance);
  total = others + own;
  return own == 1 ? std::log1p(others) : distance + std::log(total);
}

void CpuGradOps::head_block(const Tensor& h, const Weight& head, const Tensor& bias, const LogitParams& logits,
                            std::span<const int> scored, std::span<const int32_t> targets,
                            std::span<const float> weights, std::span<float> losses, Tensor* dh) {
  const int rows = int(scored.size()), vocab = head.out, in = head.in;
  Tensor x = ops_.memory_->make(rows, in), z;
  for (int i = 0; i < rows; ++i) std::copy_n(row(h, scored[size_t(i)]), in, row(x, i));
  const MatmulTerm term = {&head, bias ? &bias : nullptr};
  ops_.matmul(x, {&term, 1}, {&z, 1});
  // In bf16 a row takes half of its place, and may begin as far behind its old beginning as keeps it inside.
  const bool bf16 = uses_bf16();
  const size_t room = size_t(vocab) - (size_t(vocab) % 2), shift = kShift * size_t(rows) + 2 <= room ? kShift : 0;
  auto* const halves = reinterpret_cast<uint16_t*>(data(z));
  const size_t stride = 2 * size_t(vocab) + shift;
  std::vector<double> totals(static_cast<size_t>(rows));
  threads_.for_each(rows, [&](int64_t i, int thread) {
    float* values = row(z, int(i));
    const size_t r = size_t(scored[size_t(i)]);
    std::span<float> capped;
    if (logits.cap > 0) {
      k_.soft_cap(values, logits.factor / logits.cap, logits.cap, vocab);
      if (dh != nullptr) {
        capped = ops_.scratch(thread, size_t(vocab));
        std::copy_n(values, vocab, capped.begin());
      }
    } else if (logits.factor != 1) {
      k_.scale(values, logits.factor, vocab);
    }
    const double loss = loss_of_row(values, vocab, targets[r], totals[size_t(i)]);
    if (!capped.empty()) k_.soft_cap_dx(values, capped.data(), 1 / logits.cap, vocab);
    // A row that is broken must show, whatever rounding and maxima made of it.
    if (!std::isfinite(k_.dot(row(x, int(i)), row(x, int(i)), in))) totals[size_t(i)] = NAN;
    losses[r] = std::isnan(totals[size_t(i)]) ? NAN : float(loss);
    if (dh == nullptr || !bf16) return;
    auto* rounded = reinterpret_cast<uint16_t*>(ops_.scratch(thread, size_t(vocab) / 2 + 1).data());
    k_.round_bf16(values, vocab, rounded);
    rounded[vocab] = 0;
    std::memcpy(halves + size_t(i) * stride, rounded, (size_t(vocab) + size_t(vocab) % 2) * sizeof(uint16_t));
  });
  if (dh == nullptr) return;
  GradRows grad_rows = {.f32 = data(z), .bf16 = nullptr, .stride = size_t(vocab), .rows = rows};
  if (bf16) grad_rows = {.f32 = nullptr, .bf16 = halves, .stride = stride, .rows = rows};
  threads_.for_ranges(in, column_grain(), [&](int64_t first, int64_t last, int thread) {
    add_product(grad_rows, head, int(first), int(last), data(x), size_t(in), false, thread);
  });
  ops_.for_rows(rows, in, [&](int i) {
    const size_t r = size_t(scored[size_t(i)]);
    k_.scale(row(x, i), float(double(logits.factor) * double(weights[r]) / totals[size_t(i)]), in);
    std::copy_n(row(x, i), in, row(*dh, int(r)));
  });
}

}  // namespace bumblebee::cpu
