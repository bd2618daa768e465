// Attention of whole segments, and its derivatives. Keys are laid out once with a column for each token, so that every
// product has lanes along columns. Forward, a task is a block of queries of one head: its scores over all visible keys,
// their softmax, its values. Backward, a task is one head of one segment: blocks of scores are computed again, with
// lanes along queries, so that the softmax needs no sums: log-sums are known. Heads that share keys keep gradients of
// their own, which are added in order.
#include <algorithm>
#include <cmath>

#include "backend/cpu/grad_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int kBlockRows = 64;  // queries of a task, and keys of a block

int first_visible(const AttentionParams& a, int position) {
  return a.window > 0 ? std::max(0, position - a.window + 1) : 0;
}

int padded(int rows) { return (rows + 15) / 16 * 16; }

void transpose(const float* from, size_t from_stride, int rows, int cols, float* to, size_t to_stride) {
  constexpr int kTile = 16;
  for (int r0 = 0; r0 < rows; r0 += kTile) {
    for (int c0 = 0; c0 < cols; c0 += kTile) {
      for (int r = r0; r < std::min(r0 + kTile, rows); ++r) {
        for (int c = c0; c < std::min(c0 + kTile, cols); ++c)
          to[size_t(c) * to_stride + size_t(r)] = from[size_t(r) * from_stride + size_t(c)];
      }
    }
  }
}

}  // namespace

/// Keys of every segment as [kv_heads][head_dim][stride], zeros past the segment's end.
struct CpuGradOps::Packed {
  struct Part {
    size_t offset = 0, stride = 0;
  };
  Tensor memory;
  std::vector<Part> parts;  // by segment
  int head_dim = 0;
  float* head(size_t segment, int kv_head) const {
    const Part& part = parts[segment];
    return data(memory) + part.offset + size_t(kv_head) * size_t(head_dim) * part.stride;
  }
};

CpuGradOps::Packed CpuGradOps::pack_keys(const Tensor& k, const AttentionParams& a) {
  Packed packed;
  packed.head_dim = a.head_dim;
  const std::vector<Segment>& segments = ops_.batch_.segments;
  size_t size = 0;
  for (const Segment& s : segments) {
    BB_CHECK(s.past == 0, "past ", s.past);
    // A line more than the keys need: rows a power of two apart would share the lines of a small cache.
    packed.parts.push_back({size, size_t(padded(s.rows)) + 16});
    size += size_t(k.cols()) * packed.parts.back().stride;
  }
  BB_CHECK(size < size_t(1) << 31, "keys of ", size, " elements");
  packed.memory = ops_.memory_->make(1, int(size));
  threads_.for_each(int64_t(segments.size()) * a.kv_heads, [&](int64_t i, int) {
    const size_t index = size_t(i / a.kv_heads);
    const int head = int(i % a.kv_heads);
    const Segment& s = segments[index];
    const size_t stride = packed.parts[index].stride;
    float* to = packed.head(index, head);
    transpose(row(k, s.first) + head * a.head_dim, size_t(k.cols()), s.rows, a.head_dim, to, stride);
    for (int d = 0; d < a.head_dim; ++d) std::fill(to + size_t(d) * stride + s.rows, to + size_t(d + 1) * stride, 0.0f);
  });
  return packed;
}

void CpuGradOps::attend_block(const Packed& keys, const Tensor& q, const Tensor& v, const AttentionParams& a,
                              size_t segment, int first, int head, int thread, const Tensor& out, const Tensor& lse) {
  const Segment& s = ops_.batch_.segments[segment];
  const int rows = std::min(kBlockRows, s.rows - first), group = head * a.kv_heads / a.heads;
  const int begin = first_visible(a, first) / 16 * 16, end = first + rows;  // keys that some row sees
  const size_t stride = size_t(padded(end - begin)), key_stride = keys.parts[segment].stride;
  float* scores = ops_.scratch(thread, size_t(kBlockRows) * stride).data();
  k_.small_gemm({.a = row(q, s.first + first) + head * a.head_dim,
                 .a_stride = size_t(q.cols()),
                 .b = keys.head(segment, group) + begin,
                 .b_stride = key_stride,
                 .element = Element::f32,
                 .c = scores,
                 .c_stride = stride,
                 .rows = rows,
                 .cols = int(stride),
                 .depth = a.head_dim});
  float totals[kBlockRows];
  for (int i = 0; i < rows; ++i) {
    float* p = scores + size_t(i) * stride;
    const int low = first_visible(a, first + i) - begin, high = first + i + 1 - begin;
    std::fill(p, p + low, 0.0f);
    std::fill(p + high, p + (end - begin), 0.0f);
    const float highest = k_.max_scaled(p + low, high - low, a.scale);
    totals[i] = k_.softmax_part(p + low, high - low, a.scale, highest);
    row(lse, s.first + first + i)[head] = highest + std::log(totals[i]);
  }
  float* y = row(out, s.first + first) + head * a.head_dim;
  k_.small_gemm({.a = scores,
                 .a_stride = stride,
                 .b = row(v, s.first + begin) + group * a.head_dim,
                 .b_stride = size_t(v.cols()),
                 .element = Element::f32,
                 .c = y,
                 .c_stride = size_t(out.cols()),
                 .rows = rows,
                 .cols = a.head_dim,
                 .depth = end - begin});
  for (int i = 0; i < rows; ++i) k_.scale(y + size_t(i) * size_t(out.cols()), 1.0f / totals[i], a.head_dim);
}

Tensor CpuGradOps::attend_packed(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& a,
                                 Tensor& lse) {
  Tensor out = ops_.memory_->make(q.rows(), q.cols());
  lse = ops_.memory_->make(q.rows(), a.heads);
  const Packed keys = pack_keys(k, a);
  struct Task {
    size_t segment;
    int first;
  };
  std::vector<Task> tasks;  // those with the most keys first, so that threads finish together
  for (size_t s = 0; s < ops_.batch_.segments.size(); ++s) {
    for (int first = 0; first < ops_.batch_.segments[s].rows; first += kBlockRows) tasks.push_back({s, first});
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task& x, const Task& y) { return x.first > y.first; });
  threads_.for_each(int64_t(tasks.size()) * a.heads, [&](int64_t i, int thread) {
    const Task& task = tasks[size_t(i / a.heads)];
    attend_block(keys, q, v, a, task.segment, task.first, int(i % a.heads), thread, out, lse);
  });
  return out;
}

/// What the tasks of the backward pass share.
struct CpuGradOps::HeadSlopes {
  const AttentionParams& a;
  const Packed& keys;
  const Tensor &q, &k, &v, &dout, &lse, &means;  // means: dout·out, [rows, heads]
  const Tensor &dq, &dk, &dv;                    // dk and dv by head: [rows, heads·head_dim]
};

void CpuGradOps::slopes_of_head(const HeadSlopes& work, size_t segment, int head, int thread) {
  constexpr size_t kB = kBlockRows;
  const AttentionParams& a = work.a;
  const Segment& s = ops_.batch_.segments[segment];
  const int dim = a.head_dim, group = head * a.kv_heads / a.heads, width = a.heads * dim;
  const size_t block = size_t(dim) * kB, stride = size_t(width), kv_stride = size_t(work.k.cols()),
               key_stride = work.keys.parts[segment].stride;
  float* const q_t = ops_.scratch(thread, 3 * block + 2 * kB * kB + 2 * kB).data();  // [head_dim, kB]
  float *const dout_t = q_t + block, *const dq_t = dout_t + block;                   // [head_dim, kB]
  float *const p = dq_t + block, *const ds = p + kB * kB;                            // [keys, kB]
  float *const lse = ds + kB * kB, *const means = lse + kB;                          // [kB]
  for (int r = s.first; r < s.first + s.rows; ++r) {
    std::fill_n(row(work.dk, r) + head * dim, dim, 0.0f);
    std::fill_n(row(work.dv, r) + head * dim, dim, 0.0f);
  }
  for (int first = 0; first < s.rows; first += kBlockRows) {
    const int rows = std::min(kBlockRows, s.rows - first), top = s.first + first;
    const float *const q = row(work.q, top) + head * dim, *const dout = row(work.dout, top) + head * dim;
    if (rows < kBlockRows) std::fill_n(q_t, 2 * block, 0.0f);
    transpose(q, stride, rows, dim, q_t, kB);
    transpose(dout, stride, rows, dim, dout_t, kB);
    std::fill_n(dq_t, block, 0.0f);
    for (int i = 0; i < rows; ++i) {
      lse[i] = row(work.lse, top + i)[head];
      means[i] = row(work.means, top + i)[head];
    }
    for (int key = first_visible(a, first) / kBlockRows * kBlockRows; key < first + rows; key += kBlockRows) {
      const int keys = std::min(kBlockRows, s.rows - key);
      const auto product = [&](const float* left, size_t left_stride, int height, const float* right,
                               size_t right_stride, float* y, size_t y_stride, int cols, int depth, bool accumulate) {
        k_.small_gemm({.a = left,
                       .a_stride = left_stride,
                       .b = right,
                       .b_stride = right_stride,
                       .element = Element::f32,
                       .c = y,
                       .c_stride = y_stride,
                       .rows = height,
                       .cols = cols,
                       .depth = depth,
                       .accumulate = accumulate});
      };
      product(row(work.k, s.first + key) + group * dim, kv_stride, keys, q_t, kB, p, kB, kBlockRows, dim, false);
      product(row(work.v, s.first + key) + group * dim, kv_stride, keys, dout_t, kB, ds, kB, kBlockRows, dim, false);
      for (int j = 0; j < keys; ++j) {
        // Query `first + i` sees key `key + j` when 0 <= first + i - key - j < window.
        const int low = std::clamp(key + j - first, 0, rows);
        const int high = a.window > 0 ? std::clamp(key + j - first + a.window, low, rows) : rows;
        float *const p_row = p + size_t(j) * kB, *const ds_row = ds + size_t(j) * kB;
        for (float* const x : {p_row, ds_row}) {
          std::fill(x, x + low, 0.0f);
          std::fill(x + high, x + kB, 0.0f);
        }
        k_.softmax_dx(p_row + low, ds_row + low, lse + low, means + low, a.scale, high - low);
      }
      const int at = head * dim;
      product(p, kB, keys, dout, stride, row(work.dv, s.first + key) + at, stride, dim, rows, true);
      product(ds, kB, keys, q, stride, row(work.dk, s.first + key) + at, stride, dim, rows, true);
      product(work.keys.head(segment, group) + key, key_stride, dim, ds, kB, dq_t, kB, kBlockRows, keys, true);
    }
    transpose(dq_t, kB, dim, rows, row(work.dq, top) + head * dim, stride);
  }
}

void CpuGradOps::attend_packed_dqkv(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& out, const Tensor& lse, const AttentionParams& a, Tensor& dq,
                                    Tensor& dk, Tensor& dv) {
  const int rows = q.rows(), dim = a.head_dim, group = a.heads / a.kv_heads;
  const Packed keys = pack_keys(k, a);
  Tensor means = ops_.memory_->make(rows, a.heads);
  ops_.for_rows(rows, q.cols(), [&](int r) {
    for (int h = 0; h < a.heads; ++h) row(means, r)[h] = k_.dot(row(dout, r) + h * dim, row(out, r) + h * dim, dim);
  });
  dq = ops_.memory_->make(rows, q.cols());
  dk = ops_.memory_->make(rows, k.cols());
  dv = ops_.memory_->make(rows, v.cols());
  const Tensor dk_heads = group == 1 ? dk : ops_.memory_->make(rows, q.cols()),
               dv_heads = group == 1 ? dv : ops_.memory_->make(rows, q.cols());
  const HeadSlopes work = {a, keys, q, k, v, dout, lse, means, dq, dk_heads, dv_heads};
  std::vector<size_t> order;  // long segments first, so that threads finish together
  for (size_t s = 0; s < ops_.batch_.segments.size(); ++s) order.push_back(s);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t x, size_t y) { return ops_.batch_.segments[x].rows > ops_.batch_.segments[y].rows; });
  threads_.for_each(int64_t(order.size()) * a.heads, [&](int64_t i, int thread) {
    slopes_of_head(work, order[size_t(i / a.heads)], int(i % a.heads), thread);
  });
  if (group == 1) return;
  ops_.for_rows(rows, 2 * q.cols(), [&](int r) {
    for (const auto& [sums, heads] : {std::pair(&dk, &dk_heads), std::pair(&dv, &dv_heads)}) {
      for (int h = 0; h < a.heads; ++h) {
        float* to = row(*sums, r) + h / group * dim;
        const float* from = row(*heads, r) + h * dim;
        if (h % group == 0) {
          std::copy_n(from, dim, to);
        } else {
          k_.add(to, from, dim);
        }
      }
    }
  });
}

}  // namespace bumblebee::cpu
