// Causal attention over pages with a running softmax. Heads that share keys are the rows of one small product, so that
// a page of keys is read once for all of them. Pages begin at fixed positions of a sequence, so a row's sums do not
// depend on how its prompt was cut into batches.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int kTaskVectors = 32;  // query vectors (rows times heads of a group) of one task

/// Running state of one task, in one scratch allocation.
struct TaskState {
  int vectors, dim, page_size;
  float *q, *scores, *sum, *highest, *total;
  static size_t floats(int vectors, int dim, int page_size) {
    return size_t(vectors) * size_t(2 * dim + page_size + 2);
  }
  TaskState(float* base, int v, int d, int p) : vectors(v), dim(d), page_size(p) {
    q = base;
    sum = q + size_t(v) * size_t(d);
    scores = sum + size_t(v) * size_t(d);
    highest = scores + size_t(v) * size_t(p);
    total = highest + v;
    std::fill_n(sum, size_t(v) * size_t(d), 0.0f);
    std::fill_n(highest, v, -INFINITY);
    std::fill_n(total, v, 0.0f);
  }
};

template <class T>
void scatter_column(const T* values, int dim, int page_size, int token, std::byte* keys) {
  T* column = reinterpret_cast<T*>(keys) + token;
  for (int d = 0; d < dim; ++d) column[size_t(d) * size_t(page_size)] = values[d];
}

}  // namespace

void CpuOps::append_kv(CpuKv& kv, int layer, const Tensor& k, const Tensor& v, const AttentionParams& a) {
  const int page_size = kv.shape().page_size;
  for (const Segment& s : batch_.segments) {
    for (int token = s.past; token < s.past + s.rows; token += page_size - token % page_size) {
      kv.touch(batch_.pages[size_t(s.first_page + token / page_size)]);
    }
  }
  const size_t bytes = kv.element_bytes();
  const auto append_head = [&](int head) {
    std::vector<std::byte> key(size_t(a.head_dim) * bytes);
    for (const Segment& s : batch_.segments) {
      for (int i = 0; i < s.rows; ++i) {
        const int page = batch_.pages[size_t(s.first_page + (s.past + i) / page_size)],
                  token = (s.past + i) % page_size;
        k_.store(row(k, s.first + i) + head * a.head_dim, a.head_dim, kv.element(), key.data());
        if (bytes == 4) {
          scatter_column(reinterpret_cast<const float*>(key.data()), a.head_dim, page_size, token,
                         kv.keys(page, layer, head));
        } else {
          scatter_column(reinterpret_cast<const uint16_t*>(key.data()), a.head_dim, page_size, token,
                         kv.keys(page, layer, head));
        }
        k_.store(row(v, s.first + i) + head * a.head_dim, a.head_dim, kv.element(),
                 kv.values(page, layer, head) + size_t(token) * size_t(a.head_dim) * bytes);
      }
    }
  };
  if (k.rows() < 16) {
    for (int head = 0; head < a.kv_heads; ++head) append_head(head);
  } else {
    threads_.for_each(a.kv_heads, [&](int64_t head, int) { append_head(int(head)); });
  }
}

void CpuOps::attend_task(CpuKv& kv, int layer, const Tensor& q, const Tensor& out, const AttentionParams& a,
                         const AttentionTask& task, int thread) {
  const Segment& s = batch_.segments[size_t(task.segment)];
  const int group = a.heads / a.kv_heads, dim = a.head_dim, page_size = kv.shape().page_size;
  const int vectors = task.rows * group;
  TaskState state(scratch(thread, TaskState::floats(vectors, dim, page_size)).data(), vectors, dim, page_size);
  for (int i = 0; i < task.rows; ++i) {
    std::copy_n(row(q, s.first + task.first_row + i) + task.head * group * dim, group * dim,
                state.q + size_t(i) * size_t(group * dim));
  }
  const int first_position = s.past + task.first_row, last_position = first_position + task.rows - 1;
  const auto first_visible = [&](int position) { return a.window > 0 ? std::max(0, position - a.window + 1) : 0; };

  for (int page = first_visible(first_position) / page_size; page * page_size <= last_position; ++page) {
    const int start = page * page_size;
    const int id = batch_.pages[size_t(s.first_page + page)];
    const int depth = std::min(page_size, last_position + 1 - start);  // tokens that some row of the task sees
    k_.small_gemm({.a = state.q,
                   .a_stride = size_t(dim),
                   .b = kv.keys(id, layer, task.head),
                   .b_stride = size_t(page_size),
                   .element = kv.element(),
                   .c = state.scores,
                   .c_stride = size_t(page_size),
                   .rows = vectors,
                   .cols = (depth + 15) / 16 * 16,
                   .depth = dim});
    for (int i = 0; i < vectors; ++i) {
      const int position = first_position + i / group;
      const int low = std::clamp(first_visible(position) - start, 0, depth),
                high = std::clamp(position + 1 - start, low, depth);
      float* p = state.scores + size_t(i) * size_t(page_size);
      std::fill(p, p + low, 0.0f);
      std::fill(p + high, p + depth, 0.0f);
      if (low == high) continue;
      const float highest = std::max(state.highest[i], k_.max_scaled(p + low, high - low, a.scale));
      const float shrink = std::exp(state.highest[i] - highest);
      state.highest[i] = highest;
      state.total[i] = state.total[i] * shrink + k_.softmax_part(p + low, high - low, a.scale, highest);
      if (shrink != 1) k_.scale(state.sum + size_t(i) * size_t(dim), shrink, dim);
    }
    k_.small_gemm({.a = state.scores,
                   .a_stride = size_t(page_size),
                   .b = kv.values(id, layer, task.head),
                   .b_stride = size_t(dim),
                   .element = kv.element(),
                   .c = state.sum,
                   .c_stride = size_t(dim),
                   .rows = vectors,
                   .cols = dim,
                   .depth = depth,
                   .accumulate = true});
  }
  for (int i = 0; i < vectors; ++i) {
    float* sum = state.sum + size_t(i) * size_t(dim);
    k_.scale(sum, 1.0f / state.total[i], dim);
    std::copy_n(sum, dim, row(out, s.first + task.first_row + i / group) + (task.head * group + i % group) * dim);
  }
}

Tensor CpuOps::attend(KvStore& store, int layer, const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionParams& a) {
  auto& kv = static_cast<CpuKv&>(store);
  append_kv(kv, layer, k, v, a);
  Tensor out = memory_->make(q.rows(), q.cols());
  const int task_rows = std::max(1, kTaskVectors / (a.heads / a.kv_heads));
  std::vector<AttentionTask> tasks;
  for (size_t s = 0; s < batch_.segments.size(); ++s) {
    for (int r = 0; r < batch_.segments[s].rows; r += task_rows) {
      for (int h = 0; h < a.kv_heads; ++h)
        tasks.push_back({int(s), h, r, std::min(task_rows, batch_.segments[s].rows - r)});
    }
  }
  threads_.for_each(int64_t(tasks.size()),
                    [&](int64_t t, int thread) { attend_task(kv, layer, q, out, a, tasks[size_t(t)], thread); });
  return out;
}

}  // namespace bumblebee::cpu
