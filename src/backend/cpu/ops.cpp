// Partitions. A matrix product is split over output features, everything else over rows; small work stays on the
// caller's thread, where a barrier would cost more than it saves.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int64_t kSerialWork = 1 << 13;   // elements below which sharing a loop does not pay
constexpr int64_t kSerialParts = 1 << 11;  // the same where each is rounded: a microsecond or two
constexpr int64_t kTileGrain = 2;          // blocks of x that a thread lays out at least: about a microsecond
constexpr int kPanelRows = 32;             // weight rows decoded at once: with a block of k, 128 KiB

const CpuWeight& packed(const Weight& w) { return static_cast<const CpuWeight&>(*w.packed); }

}  // namespace

CpuOps::CpuOps(const Kernels& kernels, ThreadPool& threads, std::shared_ptr<Pool> memory, bool fast)
    : k_(kernels),
      threads_(threads),
      partition_(threads.plan().nodes),
      memory_(std::move(memory)),
      fast_(fast),
      scratch_(size_t(threads.threads())) {}

void CpuOps::bind(const Batch& batch, const Tensor& chosen) {
  batch_ = batch;
  if (chosen) batch_.resolve_chosen({elements<int32_t>(chosen), size_t(chosen.rows())});
  for (RopeTable& table : rope_tables_) table.valid = false;
  quantized_.source = {};
}

std::span<float> CpuOps::scratch(int thread, size_t floats) {
  Scratch& s = scratch_[size_t(thread)];
  if (s.floats < floats) {
    s.bytes = aligned_bytes(floats * sizeof(float));
    s.floats = floats;
  }
  return {reinterpret_cast<float*>(s.bytes.get()), floats};
}

Tensor CpuOps::make_writable(Tensor& t) { return t.unique() ? t : copy(t); }

void CpuOps::for_rows(int rows, int work_per_row, FunctionRef<void(int)> body) {
  if (int64_t{rows} * work_per_row < kSerialWork) {
    for (int r = 0; r < rows; ++r) body(r);
    return;
  }
  threads_.for_ranges(rows, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) body(int(r));
  });
}

void CpuOps::for_parts(int rows, int cols, FunctionRef<void(int, int, int)> body) {
  if (int64_t{rows} * cols < kSerialParts) {
    for (int r = 0; r < rows; ++r) body(r, 0, cols);
    return;
  }
  const int64_t parts = (cols + kQuantPart - 1) / kQuantPart;
  threads_.for_ranges(rows * parts, 1, [&](int64_t first, int64_t last, int) {
    while (first < last) {
      const int64_t r = first / parts, end = std::min(last, (r + 1) * parts);
      body(int(r), int(first - r * parts) * kQuantPart, std::min(cols, int(end - r * parts) * kQuantPart));
      first = end;
    }
  });
}

void CpuOps::for_cols(int work_per_col, int cols, FunctionRef<void(int, int)> body) {
  constexpr int kLine = 64;  // columns: no two threads write to one line of a cache, and few vectors are not whole
  if (int64_t{cols} * work_per_col < kSerialWork) return body(0, cols);
  threads_.for_ranges(cols, kLine, [&](int64_t first, int64_t last, int) { body(int(first), int(last)); });
}

Tensor CpuOps::embed(const Weight& table) {
  Tensor y = memory_->make(batch_.rows(), table.in);
  const WeightRows& w = packed(table).rows;
  for (int r = 0; r < y.rows(); ++r) {  // no loop of threads may throw
    const int token = batch_.tokens[size_t(r)];
    BB_CHECK(token >= 0 && token < table.out, "token ", token, " of ", table.out);
  }
  for_rows(y.rows(), y.cols(), [&](int r) {
    const int token = batch_.tokens[size_t(r)];
    k_.decode(w, token, token + 1, 0, table.in, row(y, r), size_t(table.in));
  });
  return y;
}

const QuantRows& CpuOps::QuantizedInput::rows(const QuantLayout& layout) const {
  for (const QuantizedInt8& r : int8) {
    if (r.layout == layout) return r.rows;
  }
  BB_CHECK(false, "x was not rounded for this weight");
}

void CpuOps::QuantizedInt8::make_room(int row_count, int cols, bool lanes, const Kernels& kernels) {
  count = row_count;
  by_lane = lanes;
  has_high = !by_lane || kernels.dense_high;
  const size_t all = size_t(row_count), blocks = size_t(padded_blocks(cols, layout));
  // Half a line more than a row needs: rows a power of two apart would fall on the same lines of a small cache.
  const size_t stride = blocks * size_t(layout.block) + kNibbleChunk / 2;
  if (const size_t bytes = (has_high ? 2 : 1) * all * stride + kRowRead; value_bytes < bytes) {
    values = aligned_bytes(bytes);
    std::memset(values.get(), 0, bytes);  // what follows a row's end is read, and met by codes of zero
    value_bytes = bytes;
  }
  scales.resize(all * blocks);
  sums.resize(all * blocks);
  outliers.resize(has_high ? 0 : all * blocks * kOutliers);
  high_shifts.resize(by_lane && has_high ? all * blocks : 0);
  rows = {.values = reinterpret_cast<int8_t*>(values.get()),
          .scales = scales.data(),
          .sums = sums.data(),
          .outliers = outliers.data(),
          .high_shifts = high_shifts.data(),
          .stride = stride,
          .block_stride = blocks};
}

QuantRow CpuOps::QuantizedInt8::row_of_run(int first, int rows_in_run, int r) {
  const size_t block = size_t(first + r) * rows.block_stride;
  int8_t* const at = reinterpret_cast<int8_t*>(values.get()) + size_t((has_high ? 2 : 1) * first + r) * rows.stride;
  return {.by_lane = by_lane,
          .values = at,
          .high = has_high ? at + size_t(rows_in_run) * rows.stride : nullptr,
          .scales = scales.data() + block,
          .sums = sums.data() + block,
          .outliers = outliers.empty() ? nullptr : outliers.data() + block * kOutliers,
          .high_shifts = high_shifts.empty() ? nullptr : high_shifts.data() + block};
}

QuantRows CpuOps::QuantizedInt8::run(int first) const {
  QuantRows from = rows.from(first);
  if (has_high) from.values += size_t(first) * rows.stride;
  return from;
}

void CpuOps::QuantizedInt8::copy(const QuantRow& from, const QuantRow& to) const {
  std::copy_n(from.values, rows.stride, to.values);
  if (has_high) std::copy_n(from.high, rows.stride, to.high);
  std::copy_n(from.scales, rows.block_stride, to.scales);
  std::copy_n(from.sums, rows.block_stride, to.sums);
  if (!outliers.empty()) std::copy_n(from.outliers, rows.block_stride * kOutliers, to.outliers);
  if (!high_shifts.empty()) std::copy_n(from.high_shifts, rows.block_stride, to.high_shifts);
}

CpuOps::QuantizedInt8& CpuOps::QuantizedInput::of(const QuantLayout& layout) {
  const auto same = [&](const QuantizedInt8& r) { return r.layout == layout; };
  const auto at = std::find_if(int8.begin(), int8.end(), same);
  return at != int8.end() ? *at : int8.emplace_back(layout);
}

void CpuOps::begin_quantizing(const Tensor& y) {
  quantized_.source = {};
  const auto known = quantized_.layouts.find(y.cols());
  if (!fast_ || known == quantized_.layouts.end()) return;
  for (const QuantLayout& layout : known->second)
    quantized_.of(layout).make_room(y.rows(), y.cols(), y.rows() > k_.direct_rows, k_);
  quantized_.source = y;
  quantized_.done = known->second;
}

void CpuOps::quantize_part(const Tensor& y, int r, int first, int last) {
  if (!quantized_.source) return;
  for (const QuantLayout& layout : quantized_.done)
    k_.quantize(row(y, r), first, last, y.cols(), layout, quantized_.of(layout).row(r));
}

void CpuOps::quantize_rows(const Tensor& y) {
  if (!quantized_.source) return;
  for_parts(y.rows(), y.cols(), [&](int r, int first, int last) { quantize_part(y, r, first, last); });
}

void CpuOps::make_rows(const Tensor& y, FunctionRef<void(int)> body) {
  // Where rows do not keep all threads busy, they are rounded in parts.
  const bool apart = 2 * y.rows() <= threads_.threads();
  for_rows(y.rows(), y.cols(), [&](int r) {
    body(r);
    if (!apart) quantize_part(y, r, 0, y.cols());
  });
  if (apart) quantize_rows(y);
}

void CpuOps::forget_quantized(const Tensor& t) {
  if (quantized_.source && quantized_.source.buffer() == t.buffer()) quantized_.source = {};
}

void CpuOps::quantize_input(const Tensor& x, std::span<const MatmulTerm> terms) {
  bool bf16 = false;
  std::vector<QuantLayout> needed;
  for (const MatmulTerm& term : terms) {
    const WeightRows& w = packed(*term.weight).rows;
    bf16 = bf16 || uses_bf16(w);
    if (const QuantLayout layout = quant_layout(w);
        uses_int8(w) && std::find(needed.begin(), needed.end(), layout) == needed.end())
      needed.push_back(layout);
  }
  const Tensor& source = quantized_.source;
  const bool same = source && source.buffer() == x.buffer() && source.offset_bytes() == x.offset_bytes() &&
                    source.rows() == x.rows() && source.cols() == x.cols();
  if (!needed.empty() && !(same && needed == quantized_.done)) {
    quantized_.layouts[x.cols()] = needed;
    begin_quantizing(x);
    quantize_rows(x);
  }
  const size_t rows = size_t(x.rows()), cols = size_t(x.cols());
  if (bf16) {
    quantized_.bf16.resize(rows * cols);
    for_rows(x.rows(), x.cols(),
             [&](int r) { k_.round_bf16(row(x, r), x.cols(), quantized_.bf16.data() + size_t(r) * cols); });
  }
}

int64_t CpuOps::tile_input(const Tensor& x, std::span<const MatmulTerm> terms) {
  if (x.rows() <= kMatvecRows) return kRowGrain;
  if (!fast_ || x.rows() > k_.tiled_rows) return kInt8Cols;
  bool tiled = false, other = false;
  for (const MatmulTerm& term : terms) {
    const WeightRows& w = packed(*term.weight).rows;
    const bool takes = uses_int8(w) && k_.takes_tiles(w);
    (takes ? tiled : other) = true;
    if (!takes) continue;
    QuantizedInt8& q = quantized_.of(quant_layout(w));
    if (q.rows.tiles != nullptr) continue;
    if (const size_t bytes = k_.tile_bytes(x.rows(), x.cols()); q.tile_bytes < bytes) {
      q.tiles = aligned_bytes(bytes);
      q.tile_bytes = bytes;
    }
    auto* const out = reinterpret_cast<uint8_t*>(q.tiles.get());
    const int block = q.layout.block;
    threads_.for_ranges(x.cols() / block, kTileGrain, [&](int64_t first, int64_t last, int) {
      k_.tile_rows(q.rows, x.rows(), x.cols(), int(first), int(last), out);
    });
    q.rows.tiles = out;
  }
  return tiled && !other ? kTiledCols : kInt8Cols;
}

int CpuOps::pieces_of(int64_t rows, int64_t grain) const {
  constexpr int64_t kMostOfALoop = 8;  // the last threads wait for an eighth of a share at most
  return int(std::clamp<int64_t>(rows / (grain * threads_.threads()), 1, kMostOfALoop));
}

void CpuOps::matmul(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y) {
  for (size_t t = 0; t < terms.size(); ++t) {
    BB_CHECK(terms[t].weight->in == x.cols(), "in ", terms[t].weight->in, " cols ", x.cols());
    y[t] = memory_->make(x.rows(), terms[t].weight->out);
  }
  if (fast_) quantize_input(x, terms);
  const size_t cols = size_t(x.cols());
  int64_t outs = 0;
  for (const MatmulTerm& term : terms) outs += term.weight->out;
  // A product of many rows unpacks some rows of a weight at a time: no piece ends within them.
  const int64_t grain = tile_input(x, terms);
  const int pieces = pieces_of(outs, grain);
  threads_.run_pieces(pieces, [&](int part, int piece, int thread) {
    partition_.each(
        int(terms.size()), [&](int t) { return terms[size_t(t)].weight->out; }, {part, piece, pieces}, grain,
        [&](int t, int first, int last) {
          const WeightRows& w = packed(*terms[size_t(t)].weight).rows;
          ProductRows rows{
              .floats = {data(x), cols}, .int8 = {}, .bf16 = nullptr, .bf16_stride = cols, .count = x.rows()};
          if (fast_ && uses_int8(w)) rows.int8 = quantized_.rows(quant_layout(w));
          if (fast_ && uses_bf16(w)) rows.bf16 = quantized_.bf16.data();
          const Tensor& to = y[size_t(t)];
          multiply(rows, w, data(to), size_t(to.cols()), first, last, thread);
          const Tensor* const bias = terms[size_t(t)].bias;
          if (bias == nullptr) return;
          for (int r = 0; r < to.rows(); ++r) k_.add(row(to, r) + first, data(*bias) + first, last - first);
        });
  });
}

void CpuOps::multiply(const ProductRows& x, const WeightRows& w, float* y, size_t stride, int first, int last,
                      int thread) {
  if (fast_ && uses_int8(w)) {
    void* panel = scratch(thread, int8_scratch(w) / sizeof(float)).data();
    k_.matmul_int8(w, first, last, x.int8, x.count, y, stride, panel);
  } else if (fast_ && uses_bf16(w)) {
    k_.matvec_bf16(w, first, last, x.bf16, x.bf16_stride, x.count, y, stride);
  } else if (x.count <= kMatvecRows) {
    k_.matvec(w, first, last, x.floats, x.count, y, stride);
  } else {
    multiply_panels(x, w, y, stride, first, last, thread);
  }
}

void CpuOps::multiply_panels(const ProductRows& x, const WeightRows& w, float* y, size_t stride, int first, int last,
                             int thread) {
  float* panel = scratch(thread, size_t(kPanelRows) * kDepthBlock).data();
  for (int n = first; n < last; n += kPanelRows) {
    const int cols = std::min(kPanelRows, last - n);
    for (int r = 0; r < x.count; ++r) std::fill_n(y + size_t(r) * stride + n, cols, 0.0f);
    for (int k = 0; k < w.in; k += kDepthBlock) {
      const int depth = std::min(kDepthBlock, w.in - k);
      k_.decode(w, n, n + cols, k, k + depth, panel, kDepthBlock);
      k_.dot_block({x.floats.data + k, x.floats.stride}, x.count, {panel, kDepthBlock}, cols, depth, y + n, stride);
    }
  }
}

Tensor CpuOps::rms_norm(const Tensor& x, const NormParams& norm) {
  Tensor y = memory_->make(x.rows(), x.cols());
  const int width = norm.w.cols();
  begin_quantizing(y);
  make_rows(y, [&](int r) {
    for (int c = 0; c < x.cols(); c += width) k_.rms_norm(row(x, r) + c, data(norm.w), norm.eps, width, row(y, r) + c);
  });
  return y;
}

Tensor CpuOps::add_rms_norm(Tensor& x, Tensor delta, const NormParams& norm) {
  x = make_writable(x);
  Tensor y = memory_->make(x.rows(), x.cols());
  begin_quantizing(y);
  make_rows(y, [&](int r) {
    k_.add(row(x, r), row(delta, r), x.cols());
    k_.rms_norm(row(x, r), data(norm.w), norm.eps, x.cols(), row(y, r));
  });
  return y;
}

void CpuOps::add(Tensor& x, Tensor delta) {
  x = make_writable(x);
  for_rows(x.rows(), x.cols(), [&](int r) { k_.add(row(x, r), row(delta, r), x.cols()); });
}

CpuOps::RopeTable& CpuOps::rope_table(const RopeParams& rope) {
  const auto same = [&](const RopeTable& t) {
    return t.rope.attention_factor == rope.attention_factor && t.rope.inv_freq == rope.inv_freq &&
           t.rope.long_inv_freq == rope.long_inv_freq;
  };
  auto at = std::find_if(rope_tables_.begin(), rope_tables_.end(), same);
  if (at != rope_tables_.end() && at->valid) return *at;
  if (at == rope_tables_.end())
    at = std::find_if(rope_tables_.begin(), rope_tables_.end(), [](const RopeTable& t) { return !t.valid; });
  RopeTable& table = at != rope_tables_.end() ? *at : rope_tables_.emplace_back();
  const size_t half = rope.inv_freq.size();
  table.cos.resize(size_t(batch_.rows()) * half);
  table.sin.resize(table.cos.size());
  table.negative_sin.clear();
  std::vector<bool> stretched(size_t(batch_.rows()), false);
  if (!rope.long_inv_freq.empty()) stretched = batch_.stretched_rows();
  // The angle is an f32 product, as models are trained with; its sine is then as exact as f32 allows.
  for_rows(batch_.rows(), int(half) * 32, [&](int r) {
    const std::vector<float>& frequencies = stretched[size_t(r)] ? rope.long_inv_freq : rope.inv_freq;
    for (size_t i = 0; i < half; ++i) {
      const double angle = double(float(batch_.positions[size_t(r)]) * frequencies[i]);
      table.cos[size_t(r) * half + i] = float(std::cos(angle) * double(rope.attention_factor));
      table.sin[size_t(r) * half + i] = float(std::sin(angle) * double(rope.attention_factor));
    }
  });
  table.rope = rope;
  table.valid = true;
  return table;
}

/// Plain code: heads that are rotated so have few such features.
void CpuOps::rotate_pairs(float* head, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; ++i) {
    const float a = head[2 * i], b = head[2 * i + 1];
    head[2 * i] = a * cos[i] - b * sin[i];
    head[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

void CpuOps::rotate_heads(Tensor& t, int head_dim, const NormParams* norm, const RopeParams& rope,
                          const RopeTable& table) {
  t = make_writable(t);
  const int half = int(table.rope.inv_freq.size());
  for_rows(t.rows(), t.cols(), [&](int r) {
    for (float* head = row(t, r); head < row(t, r) + t.cols(); head += head_dim) {
      if (norm != nullptr) k_.rms_norm(head, data(norm->w), norm->eps, norm->w.cols(), head);
      const size_t at = size_t(r) * size_t(half);
      const auto rotate = rope.interleaved ? rotate_pairs : k_.rotate;
      rotate(head + rope.first, table.cos.data() + at, table.sin.data() + at, half);
    }
  });
}

void CpuOps::norm_rope(Tensor& q, Tensor& k, int head_dim, const NormParams* q_norm, const NormParams* k_norm,
                       const RopeParams& rope) {
  const RopeTable& table = rope_table(rope);
  rotate_heads(q, head_dim, q_norm, rope, table);
  if (k) rotate_heads(k, head_dim, k_norm, rope, table);
  grow_queries(q, rope);
}

void CpuOps::grow_queries(Tensor& q, const RopeParams& rope) {
  if (rope.query_growth == 0) return;
  for_rows(q.rows(), q.cols(),
           [&](int r) { k_.scale(row(q, r), rope.query_factor(batch_.positions[size_t(r)]), q.cols()); });
}

Tensor CpuOps::glu(Activation activation, Tensor gate, Tensor up) {
  const auto gated = activation == Activation::gelu      ? k_.gelu_mul
                     : activation == Activation::sigmoid ? k_.sigmoid_mul
                                                         : k_.silu_mul;
  Tensor y = memory_->make(gate.rows(), gate.cols());
  begin_quantizing(y);
  for_parts(y.rows(), y.cols(), [&](int r, int first, int last) {
    const float *g = row(gate, r) + first, *u = row(up, r) + first;
    float* out = row(y, r) + first;
    const int count = last - first;
    if (activation == Activation::identity) {
      std::copy_n(g, count, out);
      k_.multiply(out, u, count);
    } else if (activation == Activation::clamped_silu) {
      k_.clamped_silu_mul(g, u, kClampLimit, kClampSlope, count, out);
    } else {
      gated(g, u, count, out);
    }
    quantize_part(y, r, first, last);
  });
  return y;
}

void CpuOps::multiply(Tensor& x, float factor) {
  forget_quantized(x);
  x = make_writable(x);
  for_rows(x.rows(), x.cols(), [&](int r) { k_.scale(row(x, r), factor, x.cols()); });
}

void CpuOps::soft_cap(Tensor& x, float cap) {
  forget_quantized(x);
  x = make_writable(x);
  for_rows(x.rows(), 4 * x.cols(), [&](int r) { k_.soft_cap(row(x, r), 1.0f / cap, cap, x.cols()); });
}

Tensor CpuOps::columns(const Tensor& x, int first, int count) {
  BB_CHECK(first >= 0 && count >= 0 && first + count <= x.cols(), "columns ", first, " and ", count);
  Tensor y = memory_->make(x.rows(), count);
  for_rows(x.rows(), count, [&](int r) { std::copy_n(row(x, r) + first, count, row(y, r)); });
  return y;
}

Tensor CpuOps::gather_rows(const Tensor& x) {
  Tensor y = memory_->make(int(batch_.logit_rows.size()), x.cols());
  for (int r = 0; r < y.rows(); ++r) std::copy_n(row(x, batch_.logit_rows[size_t(r)]), x.cols(), row(y, r));
  return y;
}

void CpuOps::keep_logit_rows() {
  batch_.keep_logit_rows();
  for (RopeTable& table : rope_tables_) table.valid = false;
}

Tensor CpuOps::copy(const Tensor& x) {
  Tensor y = memory_->make(x.rows(), x.cols());
  for_rows(x.rows(), x.cols(), [&](int r) { std::copy_n(row(x, r), x.cols(), row(y, r)); });
  return y;
}

}  // namespace bumblebee::cpu
