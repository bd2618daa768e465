// Partitions. A matrix product is split over output features, everything else over rows; small work stays on the
// caller's thread, where a barrier would cost more than it saves.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int64_t kSerialWork = 1 << 15;  // elements below which waking other threads does not pay
constexpr int kPanelRows = 32;            // weight rows decoded at once: with a block of k, 128 KiB

const CpuWeight& packed(const Weight& w) { return static_cast<const CpuWeight&>(*w.packed); }

bool uses_int8(const WeightRows& w) { return w.bits != 0; }
bool uses_bf16(const WeightRows& w) { return w.bits == 0 && w.element == Element::bf16; }

}  // namespace

CpuOps::CpuOps(const Kernels& kernels, ThreadPool& threads, std::shared_ptr<Pool> memory, bool fast)
    : k_(kernels),
      threads_(threads),
      partition_(threads.plan().nodes),
      memory_(std::move(memory)),
      fast_(fast),
      scratch_(size_t(threads.threads())) {}

void CpuOps::bind(const Batch& batch) {
  batch_ = batch;
  table_valid_ = false;
}

std::span<float> CpuOps::scratch(int thread, size_t floats) {
  Scratch& s = scratch_[size_t(thread)];
  if (s.floats < floats) {
    s.bytes = aligned_bytes(floats * sizeof(float));
    s.floats = floats;
  }
  return {reinterpret_cast<float*>(s.bytes.get()), floats};
}

Tensor CpuOps::own(Tensor& t) {
  if (t.unique()) return t;
  Tensor copy = memory_->make(t.rows(), t.cols());
  std::copy_n(data(t), size_t(t.rows()) * size_t(t.cols()), data(copy));
  return copy;
}

void CpuOps::for_rows(int rows, int work_per_row, FunctionRef<void(int)> body) {
  if (int64_t{rows} * work_per_row < kSerialWork) {
    for (int r = 0; r < rows; ++r) body(r);
    return;
  }
  threads_.for_ranges(rows, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) body(int(r));
  });
}

Tensor CpuOps::embed(const Weight& table) {
  Tensor y = memory_->make(batch_.rows(), table.in);
  const WeightRows& w = packed(table).rows;
  for_rows(y.rows(), y.cols(), [&](int r) {
    const int token = batch_.tokens[size_t(r)];
    k_.decode(w, token, token + 1, 0, table.in, row(y, r), size_t(table.in));
  });
  return y;
}

const QuantRows& CpuOps::Rounded::rows(const QuantLayout& layout) const {
  for (const RoundedInt8& r : int8) {
    if (r.layout == layout) return r.rows;
  }
  BB_CHECK(false, "x was not rounded for this weight");
}

void CpuOps::round_int8(const Tensor& x, RoundedInt8& out) {
  const size_t rows = size_t(x.rows());
  const size_t units = size_t(padded_units(x.cols(), out.layout));
  // Half a line more than a row needs: rows a power of two apart would fall on the same lines of a small cache.
  const size_t stride = units * size_t(out.layout.unit) + kLine / 2;
  const bool direct = x.rows() <= k_.direct_rows;
  if (const size_t bytes = (direct ? 2 : 1) * rows * stride + kRowRead; out.value_bytes < bytes) {
    out.values = aligned_bytes(bytes);
    std::memset(out.values.get(), 0, bytes);  // what follows a row's end is read, and met by codes of zero
    out.value_bytes = bytes;
  }
  auto* const values = reinterpret_cast<int8_t*>(out.values.get());
  out.scales.resize(rows * units);
  out.sums.resize(rows * units);
  out.outliers.resize(rows * units * kOutliers);
  out.rows = {.values = values,
              .scales = out.scales.data(),
              .sums = out.sums.data(),
              .outliers = out.outliers.data(),
              .stride = stride,
              .unit_stride = units};
  for_rows(x.rows(), x.cols(), [&](int r) {
    k_.quantize(row(x, r), x.cols(), out.layout,
                {.values = values + size_t(r) * stride,
                 .high = direct ? values + (rows + size_t(r)) * stride : nullptr,
                 .scales = out.scales.data() + size_t(r) * units,
                 .sums = out.sums.data() + size_t(r) * units,
                 .outliers = out.outliers.data() + size_t(r) * units * kOutliers});
  });
}

void CpuOps::round_input(const Tensor& x, std::span<const MatmulTerm> terms) {
  bool bf16 = false;
  std::vector<QuantLayout> done;
  for (const MatmulTerm& term : terms) {
    const WeightRows& w = packed(*term.weight).rows;
    bf16 = bf16 || uses_bf16(w);
    const QuantLayout layout = quant_layout(w);
    if (!uses_int8(w) || std::find(done.begin(), done.end(), layout) != done.end()) continue;
    done.push_back(layout);
    const auto same = [&](const RoundedInt8& r) { return r.layout == layout; };
    auto at = std::find_if(rounded_.int8.begin(), rounded_.int8.end(), same);
    if (at == rounded_.int8.end())
      at = rounded_.int8.insert(
          at,
          RoundedInt8{
              .layout = layout, .values = {}, .value_bytes = 0, .scales = {}, .sums = {}, .outliers = {}, .rows = {}});
    round_int8(x, *at);
  }
  const size_t rows = size_t(x.rows()), cols = size_t(x.cols());
  if (bf16) {
    rounded_.bf16.resize(rows * cols);
    for_rows(x.rows(), x.cols(),
             [&](int r) { k_.round_bf16(row(x, r), x.cols(), rounded_.bf16.data() + size_t(r) * cols); });
  }
}

void CpuOps::matmul(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y) {
  for (size_t t = 0; t < terms.size(); ++t) {
    BB_CHECK(terms[t].weight->in == x.cols(), "in ", terms[t].weight->in, " cols ", x.cols());
    y[t] = memory_->make(x.rows(), terms[t].weight->out);
  }
  if (fast_) round_input(x, terms);
  threads_.run([&](int thread) {
    partition_.each(
        int(terms.size()), [&](int t) { return terms[size_t(t)].weight->out; }, thread,
        [&](int t, int first, int last) { multiply_range(x, terms[size_t(t)], y[size_t(t)], first, last, thread); });
  });
}

void CpuOps::multiply_range(const Tensor& x, const MatmulTerm& term, const Tensor& y, int first, int last, int thread) {
  const WeightRows& w = packed(*term.weight).rows;
  const size_t stride = size_t(y.cols());
  if (fast_ && uses_int8(w)) {
    void* panel = scratch(thread, int8_scratch(w) / sizeof(float)).data();
    k_.matmul_int8(w, first, last, rounded_.rows(quant_layout(w)), x.rows(), data(y), stride, panel);
  } else if (fast_ && uses_bf16(w)) {
    k_.matvec_bf16(w, first, last, rounded_.bf16.data(), size_t(x.cols()), x.rows(), data(y), stride);
  } else if (x.rows() <= kMatvecRows) {
    k_.matvec(w, first, last, {data(x), size_t(x.cols())}, x.rows(), data(y), stride);
  } else {
    multiply_panels(x, w, y, first, last, thread);
  }
  if (term.bias == nullptr) return;
  for (int r = 0; r < y.rows(); ++r) k_.add(row(y, r) + first, data(*term.bias) + first, last - first);
}

void CpuOps::multiply_panels(const Tensor& x, const WeightRows& w, const Tensor& y, int first, int last, int thread) {
  float* panel = scratch(thread, size_t(kPanelRows) * kBlock).data();
  for (int n = first; n < last; n += kPanelRows) {
    const int cols = std::min(kPanelRows, last - n);
    for (int r = 0; r < x.rows(); ++r) std::fill_n(row(y, r) + n, cols, 0.0f);
    for (int k = 0; k < w.in; k += kBlock) {
      const int depth = std::min(kBlock, w.in - k);
      k_.decode(w, n, n + cols, k, k + depth, panel, kBlock);
      k_.dot_block({data(x) + k, size_t(x.cols())}, x.rows(), {panel, kBlock}, cols, depth, data(y) + n,
                   size_t(y.cols()));
    }
  }
}

Tensor CpuOps::matmul_untransposed(const Tensor& x, const Weight& weight) {
  BB_CHECK(weight.out == x.cols(), "out ", weight.out, " cols ", x.cols());
  const WeightRows& w = packed(weight).rows;
  Tensor y = memory_->make(x.rows(), weight.in);
  constexpr int kCols = 512, kRows = 64;
  threads_.for_ranges(weight.in, 128, [&](int64_t first, int64_t last, int thread) {
    float* panel = scratch(thread, size_t(kRows) * kCols).data();
    for (int c = int(first); c < int(last); c += kCols) {
      const int cols = std::min(kCols, int(last) - c);
      for (int n = 0; n < weight.out; n += kRows) {
        const int rows = std::min(kRows, weight.out - n);
        k_.decode(w, n, n + rows, c, c + cols, panel, kCols);
        k_.small_gemm({.a = data(x) + n,
                       .a_stride = size_t(x.cols()),
                       .b = panel,
                       .b_stride = kCols,
                       .element = Element::f32,
                       .c = data(y) + c,
                       .c_stride = size_t(y.cols()),
                       .rows = x.rows(),
                       .cols = cols,
                       .depth = rows,
                       .accumulate = n > 0});
      }
    }
  });
  return y;
}

Tensor CpuOps::rms_norm(const Tensor& x, const NormParams& norm) {
  Tensor y = memory_->make(x.rows(), x.cols());
  for_rows(x.rows(), x.cols(), [&](int r) { k_.rms_norm(row(x, r), data(norm.w), norm.eps, x.cols(), row(y, r)); });
  return y;
}

Tensor CpuOps::add_rms_norm(Tensor& x, const Tensor& delta, const NormParams& norm) {
  x = own(x);
  Tensor y = memory_->make(x.rows(), x.cols());
  for_rows(x.rows(), x.cols(), [&](int r) {
    k_.add(row(x, r), row(delta, r), x.cols());
    k_.rms_norm(row(x, r), data(norm.w), norm.eps, x.cols(), row(y, r));
  });
  return y;
}

void CpuOps::add(Tensor& x, const Tensor& delta) {
  x = own(x);
  for_rows(x.rows(), x.cols(), [&](int r) { k_.add(row(x, r), row(delta, r), x.cols()); });
}

void CpuOps::update_rope_table(const RopeParams& rope) {
  if (table_valid_ && table_for_.magnitude == rope.magnitude && table_for_.inv_freq == rope.inv_freq) return;
  const size_t half = rope.inv_freq.size();
  cos_.resize(size_t(batch_.rows()) * half);
  sin_.resize(cos_.size());
  // The angle is an f32 product, as models are trained with; its sine is then as exact as f32 allows.
  for_rows(batch_.rows(), int(half) * 32, [&](int r) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = double(float(batch_.positions[size_t(r)]) * rope.inv_freq[i]);
      cos_[size_t(r) * half + i] = float(std::cos(angle) * double(rope.magnitude));
      sin_[size_t(r) * half + i] = float(std::sin(angle) * double(rope.magnitude));
    }
  });
  table_for_ = rope;
  table_valid_ = true;
}

void CpuOps::turn(Tensor& t, int head_dim, const NormParams* norm) {
  t = own(t);
  const int half = int(table_for_.inv_freq.size());
  for_rows(t.rows(), t.cols(), [&](int r) {
    for (float* head = row(t, r); head < row(t, r) + t.cols(); head += head_dim) {
      if (norm != nullptr) k_.rms_norm(head, data(norm->w), norm->eps, head_dim, head);
      k_.rotate(head, cos_.data() + size_t(r) * size_t(half), sin_.data() + size_t(r) * size_t(half), half);
    }
  });
}

void CpuOps::norm_rope(Tensor& q, Tensor& k, int head_dim, const NormParams* q_norm, const NormParams* k_norm,
                       const RopeParams& rope) {
  update_rope_table(rope);
  turn(q, head_dim, q_norm);
  turn(k, head_dim, k_norm);
}

Tensor CpuOps::glu(Activation, const Tensor& gate, const Tensor& up) {
  Tensor y = memory_->make(gate.rows(), gate.cols());
  for_rows(y.rows(), y.cols(), [&](int r) { k_.silu_mul(row(gate, r), row(up, r), y.cols(), row(y, r)); });
  return y;
}

Tensor CpuOps::take_wanted(const Tensor& x) {
  Tensor y = memory_->make(int(batch_.wanted.size()), x.cols());
  for (int r = 0; r < y.rows(); ++r) std::copy_n(row(x, batch_.wanted[size_t(r)]), x.cols(), row(y, r));
  return y;
}

}  // namespace bumblebee::cpu
