// Attention of whole segments, and its derivatives. Keys and values are packed once for all heads that share them.
// Forward, a task is a block of queries of one head: its scores over all visible keys, their softmax, its values.
// Backward, a task is one head of one segment: blocks of scores are computed again, with lanes along queries, so that
// the softmax needs no sums, since log-sums are known. Heads that share keys keep gradients of their own, which are
// added in order. In fast precision the products are of bf16, where an instruction multiplies it.
#include <algorithm>
#include <cmath>

#include "backend/cpu/grad_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int kBlockRows = 64;  // queries of a task, and keys of a block
static_assert(kBlockRows % Operands::kEntry == 0);
constexpr size_t kB = kBlockRows;

/// The first key of the block that the first visible one is in.
int first_block(const AttentionParams& a, int position) { return a.first_visible(position) / kBlockRows * kBlockRows; }

}  // namespace

/// Keys and values of every segment and key head, as the pass wants them.
struct CpuGradOps::Packed {
  struct Head {
    Operands::Right keys_transposed, values;                      // forward: [dim, keys] [keys, dim]
    Operands::Left keys_left, values_left, keys_left_transposed;  // backward: [keys, dim] [keys, dim] [dim, keys]
  };
  Operands operands;
  Tensor memory;
  std::vector<size_t> offsets;  // of heads, by segment and key head
  std::vector<Head> heads;
  int kv_heads = 0;
  const Head& head(size_t segment, int kv_head) const { return heads[segment * size_t(kv_heads) + size_t(kv_head)]; }
};

CpuGradOps::Packed CpuGradOps::make_room(const AttentionParams& a, size_t (*room)(const Operands&, int, int)) {
  Packed packed = {Operands(k_, uses_bf16()), {}, {}, {}, a.kv_heads};
  size_t size = 0;
  for (const Segment& s : ops_.batch_.segments) {
    BB_CHECK(s.past == 0, "past ", s.past);
    for (int h = 0; h < a.kv_heads; ++h) {
      packed.offsets.push_back(size);
      size += room(packed.operands, s.rows, a.head_dim);
    }
  }
  BB_CHECK(size < size_t{1} << 31, "keys and values of ", size, " elements");
  packed.memory = ops_.memory_->make(1, int(size));
  packed.heads.resize(packed.offsets.size());
  return packed;
}

void CpuGradOps::pack_forward(Packed& packed, const Tensor& k, const Tensor& v, const AttentionParams& a) {
  threads_.for_each(int64_t(packed.heads.size()), [&](int64_t i, int) {
    const Segment& s = ops_.batch_.segments[size_t(i / a.kv_heads)];
    const int column = int(i % a.kv_heads) * a.head_dim;
    float* const room = data(packed.memory) + packed.offsets[size_t(i)];
    const Operands& o = packed.operands;
    packed.heads[size_t(i)].keys_transposed =
        o.transposed_right(row(k, s.first) + column, size_t(k.cols()), a.head_dim, s.rows, room);
    packed.heads[size_t(i)].values = o.right(row(v, s.first) + column, size_t(v.cols()), s.rows, a.head_dim,
                                             room + o.transposed_right_room(a.head_dim, s.rows));
  });
}

void CpuGradOps::pack_backward(Packed& packed, const Tensor& k, const Tensor& v, const AttentionParams& a) {
  threads_.for_each(int64_t(packed.heads.size()), [&](int64_t i, int) {
    const Segment& s = ops_.batch_.segments[size_t(i / a.kv_heads)];
    const int column = int(i % a.kv_heads) * a.head_dim;
    float* const room = data(packed.memory) + packed.offsets[size_t(i)];
    const Operands& o = packed.operands;
    Packed::Head& head = packed.heads[size_t(i)];
    const size_t stride = size_t(k.cols()), left = o.left_room(s.rows, a.head_dim);
    head.keys_left = o.left(row(k, s.first) + column, stride, s.rows, a.head_dim, room);
    head.values_left = o.left(row(v, s.first) + column, stride, s.rows, a.head_dim, room + left);
    head.keys_left_transposed =
        o.transposed_left(row(k, s.first) + column, stride, a.head_dim, s.rows, room + 2 * left);
  });
}

void CpuGradOps::attend_block(const Packed& packed, const Tensor& q, const AttentionParams& a, size_t segment,
                              int first, int head, int thread, const Tensor& out, const Tensor& lse) {
  const Operands& o = packed.operands;
  const Segment& s = ops_.batch_.segments[segment];
  const Packed::Head& shared = packed.head(segment, head * a.kv_heads / a.heads);
  const int rows = std::min(kBlockRows, s.rows - first), dim = a.head_dim, top = s.first + first;
  const int begin = first_block(a, first), keys = first + rows - begin;  // those that some row sees
  const size_t stride = up_to(keys, 16), packed_q = o.left_room(kBlockRows, dim);
  float* const scores = ops_.scratch(thread, kB * stride + packed_q + o.left_room(kBlockRows, keys)).data();
  float *const q_room = scores + kB * stride, *const p_room = q_room + packed_q;
  o.multiply(o.left(row(q, top) + head * dim, size_t(q.cols()), rows, dim, q_room),
             o.from(shared.keys_transposed, 0, begin), rows, int(stride), dim, {.c = scores, .stride = stride});
  float totals[kBlockRows];
  for (int i = 0; i < rows; ++i) {
    float* const p = scores + size_t(i) * stride;
    const int low = a.first_visible(first + i) - begin, high = first + i + 1 - begin;
    std::fill(p, p + low, 0.0f);
    std::fill(p + high, p + stride, 0.0f);
    float scale = a.scale;
    if (a.soft_cap > 0) {
      k_.soft_cap(p + low, a.scale / a.soft_cap, a.soft_cap, high - low);
      scale = 1;
    }
    float highest = k_.max_scaled(p + low, high - low, scale);
    if (a.sinks) highest = std::max(highest, data(a.sinks)[head]);
    totals[i] = k_.softmax_part(p + low, high - low, scale, highest);
    if (a.sinks) totals[i] += std::exp(data(a.sinks)[head] - highest);
    row(lse, top + i)[head] = highest + std::log(totals[i]);
  }
  float* const y = row(out, top) + head * dim;
  o.multiply(o.left(scores, stride, rows, keys, p_room), o.from(shared.values, begin, 0), rows, dim, keys,
             {.c = y, .stride = size_t(out.cols())});
  for (int i = 0; i < rows; ++i) k_.scale(y + size_t(i) * size_t(out.cols()), 1.0f / totals[i], dim);
}

Tensor CpuGradOps::attend_packed(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& a,
                                 Tensor& lse) {
  Tensor out = ops_.memory_->make(q.rows(), q.cols());
  lse = ops_.memory_->make(q.rows(), a.heads);
  Packed packed = make_room(a, [](const Operands& o, int rows, int dim) {
    return o.transposed_right_room(dim, rows) + o.right_room(rows, dim);
  });
  pack_forward(packed, k, v, a);
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
    attend_block(packed, q, a, task.segment, task.first, int(i % a.heads), thread, out, lse);
  });
  return out;
}

/// What the tasks of the backward pass share.
struct CpuGradOps::HeadSlopes {
  const AttentionParams& a;
  const Packed& packed;
  const Tensor &q, &dout, &lse, &means;  // means: dout·out, [rows, heads]
  const Tensor &dq, &dk, &dv;            // dk and dv by head: [rows, heads·head_dim]
};

void CpuGradOps::slopes_of_head(const HeadSlopes& work, size_t segment, int head, int thread) {
  const AttentionParams& a = work.a;
  const Operands& o = work.packed.operands;
  const Segment& s = ops_.batch_.segments[segment];
  const Packed::Head& shared = work.packed.head(segment, head * a.kv_heads / a.heads);
  const int dim = a.head_dim, at = head * dim;
  const size_t stride = size_t(a.heads * dim), transposed = o.transposed_right_room(dim, kBlockRows),
               plain = o.right_room(kBlockRows, dim), left = o.left_room(kBlockRows, kBlockRows),
               right = o.right_room(kBlockRows, kBlockRows), block = size_t(dim) * kB;
  float* room =
      ops_.scratch(thread, 2 * transposed + 2 * plain + 2 * left + right + block + 2 * kB * kB + 3 * kB).data();
  const auto take = [&](size_t floats) { return std::exchange(room, room + floats); };
  float *const q_transposed = take(transposed), *const dout_transposed = take(transposed), *const q_plain = take(plain),
               *const dout_plain = take(plain), *const p_left = take(left), *const ds_left = take(left),
               *const ds_right = take(right);
  float *const dq_transposed = take(block), *const p = take(kB * kB),
               *const ds = take(kB * kB);  // [dim, kB] [keys, kB]
  float *const lse = take(kB), *const means = take(kB), *const capped = take(kB);
  for (int first = 0; first < s.rows; first += kBlockRows) {
    const int rows = std::min(kBlockRows, s.rows - first), top = s.first + first;
    const float *const q = row(work.q, top) + at, *const dout = row(work.dout, top) + at;
    const Operands::Right q_t = o.transposed_right(q, stride, dim, rows, q_transposed),
                          dout_t = o.transposed_right(dout, stride, dim, rows, dout_transposed),
                          q_rows = o.right(q, stride, rows, dim, q_plain),
                          dout_rows = o.right(dout, stride, rows, dim, dout_plain);
    for (int i = 0; i < rows; ++i) {
      lse[i] = row(work.lse, top + i)[head];
      means[i] = row(work.means, top + i)[head];
    }
    const int begin = first_block(a, first), wide = int(up_to(rows, 16));
    for (int key = begin; key < first + rows; key += kBlockRows) {
      const int keys = std::min(kBlockRows, first + rows - key), key_row = s.first + key;
      const bool known = key < first;  // a block of keys is first met by the queries at the same place
      o.multiply(o.from(shared.keys_left, key, 0), q_t, keys, wide, dim, {.c = p, .stride = kB});
      o.multiply(o.from(shared.values_left, key, 0), dout_t, keys, wide, dim, {.c = ds, .stride = kB});
      for (int j = 0; j < keys; ++j) {
        // Query `first + i` sees key `key + j` when 0 <= first + i - key - j < window.
        const int low = std::clamp(key + j - first, 0, rows);
        const int high = a.window > 0 ? std::clamp(key + j - first + a.window, low, rows) : rows;
        float *const p_row = p + size_t(j) * kB, *const ds_row = ds + size_t(j) * kB;
        for (float* const x : {p_row, ds_row}) {
          std::fill(x, x + low, 0.0f);
          std::fill(x + high, x + wide, 0.0f);
        }
        const int seeing = high - low;
        if (a.soft_cap > 0) {
          k_.soft_cap(p_row + low, a.scale / a.soft_cap, a.soft_cap, seeing);
          std::copy_n(p_row + low, seeing, capped);
          k_.softmax_dx(p_row + low, ds_row + low, lse + low, means + low, 1, seeing);
          k_.soft_cap_dx(ds_row + low, capped, 1 / a.soft_cap, seeing);
          k_.scale(ds_row + low, a.scale, seeing);
        } else {
          k_.softmax_dx(p_row + low, ds_row + low, lse + low, means + low, a.scale, seeing);
        }
      }
      o.multiply(o.left(p, kB, keys, rows, p_left), dout_rows, keys, dim, rows,
                 {.c = row(work.dv, key_row) + at, .stride = stride, .accumulate = known});
      o.multiply(o.left(ds, kB, keys, rows, ds_left), q_rows, keys, dim, rows,
                 {.c = row(work.dk, key_row) + at, .stride = stride, .accumulate = known});
      o.multiply(o.from(shared.keys_left_transposed, 0, key), o.right(ds, kB, keys, wide, ds_right), dim, wide, keys,
                 {.c = dq_transposed, .stride = kB, .accumulate = key > begin});
    }
    k_.transpose(dq_transposed, kB, dim, rows, row(work.dq, top) + at, stride);
  }
}

void CpuGradOps::attend_packed_dqkv(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& out, const Tensor& lse, const AttentionParams& a, Tensor& dq,
                                    Tensor& dk, Tensor& dv) {
  const int rows = q.rows(), dim = a.head_dim, group = a.heads / a.kv_heads;
  Packed packed = make_room(a, [](const Operands& o, int count, int width) {
    return 2 * o.left_room(count, width) + o.transposed_left_room(width, count);
  });
  pack_backward(packed, k, v, a);
  Tensor means = ops_.memory_->make(rows, a.heads);
  ops_.for_rows(rows, q.cols(), [&](int r) {
    for (int h = 0; h < a.heads; ++h) row(means, r)[h] = k_.dot(row(dout, r) + h * dim, row(out, r) + h * dim, dim);
  });
  dq = ops_.memory_->make(rows, q.cols());
  dk = ops_.memory_->make(rows, k.cols());
  dv = ops_.memory_->make(rows, v.cols());
  const Tensor dk_heads = group == 1 ? dk : ops_.memory_->make(rows, q.cols()),
               dv_heads = group == 1 ? dv : ops_.memory_->make(rows, q.cols());
  const HeadSlopes work = {a, packed, q, dout, lse, means, dq, dk_heads, dv_heads};
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
        float* const to = row(*sums, r) + h / group * dim;
        const float* const from = row(*heads, r) + h * dim;
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
