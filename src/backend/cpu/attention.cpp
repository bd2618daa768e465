// Causal attention over pages with a running softmax. Heads that share keys are the rows of one small product, so that
// a page of keys is read once for all of them. Softmax runs within spans of kSpan tokens, which begin at fixed
// positions of a sequence, and the spans' results are joined in order: whoever computes a span, and however a prompt
// was cut into batches, a row's sums are the same.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {

/// Running softmax of some query vectors: Σ e^(s - highest)·v, the highest s, and Σ e^(s - highest).
struct SoftmaxState {
  int vectors, dim;
  float *sum, *highest, *total;
  static size_t floats(int vectors, int dim) { return size_t(vectors) * size_t(dim + 2); }
  SoftmaxState(float* base, int v, int d) : vectors(v), dim(d), sum(base) {
    highest = sum + size_t(v) * size_t(d);
    total = highest + v;
  }
  float* row(int i) const { return sum + size_t(i) * size_t(dim); }
  void clear() const {
    std::fill_n(sum, size_t(vectors) * size_t(dim), 0.0f);
    std::fill_n(highest, vectors, -INFINITY);
    std::fill_n(total, vectors, 0.0f);
  }
  /// Adds what a later span found.
  void join(const SoftmaxState& later, const Kernels& k) const {
    for (int i = 0; i < vectors; ++i) {
      if (later.total[i] == 0) continue;  // nothing visible there
      const float most = std::max(highest[i], later.highest[i]);
      const float mine = std::exp(highest[i] - most), its = std::exp(later.highest[i] - most);
      if (mine != 1) k.scale(row(i), mine, dim);
      k.add_scaled(row(i), later.row(i), its, dim);
      total[i] = total[i] * mine + later.total[i] * its;
      highest[i] = most;
    }
  }
};

namespace {

constexpr int kTaskVectors = 48;        // query vectors (rows times heads of a group) of one task
constexpr int kSpan = 512;              // tokens, a multiple of every page size
constexpr int64_t kSerialAppend = 512;  // features of keys below which waking other threads does not pay
constexpr int kTasksPerThread = 4;      // below this, spans are shared out too

template <class T>
void scatter_column(const void* values, int dim, int page_size, int token, std::byte* keys) {
  const T* from = static_cast<const T*>(values);
  T* column = reinterpret_cast<T*>(keys) + token;
  for (int d = 0; d < dim; ++d) column[size_t(d) * size_t(page_size)] = from[d];
}

}  // namespace

void CpuOps::append_head(const CpuKv& kv, int layer, int head, const Tensor& k, const Tensor& v,
                         const AttentionParams& a, std::byte* key) {
  const int page_size = kv.shape().page_size, dim = a.head_dim;
  const size_t bytes = kv.element_bytes();
  for (const Segment& s : batch_.segments) {
    for (int i = 0; i < s.rows; ++i) {
      const int page = batch_.pages[size_t(s.first_page + (s.past + i) / page_size)], token = (s.past + i) % page_size;
      const float *k_row = row(k, s.first + i) + head * dim, *v_row = row(v, s.first + i) + head * dim;
      std::byte *keys = kv.keys(page, layer, head),
                *value = kv.values(page, layer, head) + size_t(token) * size_t(dim) * bytes;
      if (kv.element() == Element::i8) {
        kv.key_scales(page, layer, head)[token] = k_.store_i8(k_row, dim, reinterpret_cast<int8_t*>(key));
        kv.value_scales(page, layer, head)[token] = k_.store_i8(v_row, dim, reinterpret_cast<int8_t*>(value));
      } else {
        k_.store(k_row, dim, kv.element(), key);
        k_.store(v_row, dim, kv.element(), value);
      }
      switch (bytes) {
        case 4: scatter_column<float>(key, dim, page_size, token, keys); break;
        case 2: scatter_column<uint16_t>(key, dim, page_size, token, keys); break;
        default: scatter_column<int8_t>(key, dim, page_size, token, keys);
      }
    }
  }
}

void CpuOps::append_kv(CpuKv& kv, int layer, const Tensor& k, const Tensor& v, const AttentionParams& a) {
  const int page_size = kv.shape().page_size;
  for (const Segment& s : batch_.segments) {
    for (int token = s.past; token < s.past + s.rows; token += page_size - token % page_size)
      kv.touch(batch_.pages[size_t(s.first_page + token / page_size)]);
  }
  // A key of each head: nothing may ask for memory within a loop of threads.
  const size_t key_bytes = size_t(a.head_dim) * kv.element_bytes();
  std::vector<std::byte> keys(a.value_dim > 0 ? 0 : size_t(a.kv_heads) * key_bytes);
  const auto append = [&](int head) {
    a.value_dim > 0 ? append_latents(kv, layer, head, k, a)
                    : append_head(kv, layer, head, k, v, a, keys.data() + size_t(head) * key_bytes);
  };
  // A key is a column of its page: a line of memory for every feature, of which one thread would wait for each.
  if (int64_t{k.rows()} * k.cols() < kSerialAppend) {
    for (int head = 0; head < a.kv_heads; ++head) append(head);
  } else {
    threads_.for_each(a.kv_heads, [&](int64_t head, int) { append(int(head)); });
  }
}

/// Query vectors that share keys: `rows` consecutive rows of one segment, all heads of a group.
struct CpuOps::AttentionTask {
  int segment, head, first_row, rows;
  int first_position, last_position;
  int first_span, last_span;  // that some row sees

  int spans() const { return last_span - first_span + 1; }
};

std::vector<CpuOps::AttentionTask> CpuOps::attention_tasks(const AttentionParams& a) const {
  const int task_rows = std::max(1, kTaskVectors / (a.heads / a.kv_heads));
  std::vector<AttentionTask> tasks;
  for (size_t i = 0; i < batch_.segments.size(); ++i) {
    const Segment& s = batch_.segments[i];
    for (int r = 0; r < s.rows; r += task_rows) {
      const int rows = std::min(task_rows, s.rows - r), first = s.past + r, last = first + rows - 1;
      for (int h = 0; h < a.kv_heads; ++h)
        tasks.push_back({int(i), h, r, rows, first, last, a.first_visible(first) / kSpan, last / kSpan});
    }
  }
  return tasks;
}

void CpuOps::attend_span(const CpuKv& kv, int layer, const AttentionParams& a, const AttentionTask& task, int span,
                         const float* q, float* scores, const SoftmaxState& state) {
  const int group = a.heads / a.kv_heads, dim = a.head_dim, page_size = kv.shape().page_size;
  const bool latents = a.value_dim > 0, scaled = kv.element() == Element::i8 && !latents;
  const int begin = std::max(span * kSpan, a.first_visible(task.first_position)),
            end = std::min((span + 1) * kSpan, task.last_position + 1);
  const Segment& s = batch_.segments[size_t(task.segment)];
  state.clear();
  const int last_page = task.last_position / page_size;
  for (int page = begin / page_size; page * page_size < end; ++page) {
    const int start = page * page_size;
    const int id = batch_.pages[size_t(s.first_page + page)];
    const std::byte* next_keys = nullptr;  // of the next span too: the same thread is likely to compute it
    if (page < last_page) next_keys = kv.keys(batch_.pages[size_t(s.first_page + page + 1)], layer, task.head);
    const int depth = std::min(page_size, end - start);  // tokens that some row of the task sees
    const float* latent = nullptr;
    if (latents) {
      float* const wide = scores + size_t(state.vectors) * size_t(page_size);
      latent = latent_scores(kv, layer, task.head, id, depth, q, state.vectors, a, wide, scores);
    } else {
      k_.small_gemm({.a = q,
                     .a_stride = size_t(dim),
                     .b = kv.keys(id, layer, task.head),
                     .b_stride = size_t(page_size),
                     .element = kv.element(),
                     .c = scores,
                     .c_stride = size_t(page_size),
                     .rows = state.vectors,
                     .cols = (depth + 15) / 16 * 16,
                     .depth = dim,
                     .next = kv.values(id, layer, task.head)});
    }
    for (int i = 0; i < state.vectors; ++i) {
      const int position = task.first_position + i / group;
      const int low = std::clamp(a.first_visible(position) - start, 0, depth),
                high = std::clamp(position + 1 - start, low, depth);
      float* p = scores + size_t(i) * size_t(page_size);
      std::fill(p, p + low, 0.0f);
      std::fill(p + high, p + depth, 0.0f);
      if (low == high) continue;
      if (scaled) k_.multiply(p + low, kv.key_scales(id, layer, task.head) + low, high - low);
      float scale = a.scale;
      if (a.soft_cap > 0) {
        k_.soft_cap(p + low, a.scale / a.soft_cap, a.soft_cap, high - low);
        scale = 1;
      }
      const float highest = std::max(state.highest[i], k_.max_scaled(p + low, high - low, scale));
      const float shrink = std::exp(state.highest[i] - highest);
      state.highest[i] = highest;
      state.total[i] = state.total[i] * shrink + k_.softmax_part(p + low, high - low, scale, highest);
      if (shrink != 1) k_.scale(state.row(i), shrink, state.dim);
      if (scaled) k_.multiply(p + low, kv.value_scales(id, layer, task.head) + low, high - low);
    }
    k_.small_gemm({.a = scores,
                   .a_stride = size_t(page_size),
                   .b = latents ? static_cast<const void*>(latent) : kv.values(id, layer, task.head),
                   .b_stride = size_t(dim),
                   .element = latents ? Element::f32 : kv.element(),
                   .c = state.sum,
                   .c_stride = size_t(state.dim),
                   .rows = state.vectors,
                   .cols = state.dim,
                   .depth = depth,
                   .accumulate = true,
                   .next = latents ? nullptr : next_keys});
  }
}

Tensor CpuOps::attend(KvStore& store, int layer, const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionParams& a) {
  auto& kv = static_cast<CpuKv&>(store);
  BB_CHECK(kSpan % kv.shape().page_size == 0, "page size ", kv.shape().page_size);
  const KvGroup& cached = kv.shape().group_of(layer);
  BB_CHECK(cached.kv_heads == a.kv_heads && cached.head_dim == a.head_dim && cached.value_dim == a.value_dim, "layer ",
           layer);
  if (k) append_kv(kv, layer, k, v, a);
  Tensor out = memory_->make(q.rows(), a.heads * a.values());
  for (int r = q.rows() - batch_.padding; r < q.rows(); ++r) std::fill_n(row(out, r), out.cols(), 0.0f);
  const int group = a.heads / a.kv_heads, dim = a.head_dim, value_dim = a.values();
  const std::vector<AttentionTask> tasks = attention_tasks(a);

  const auto gather = [&](const AttentionTask& task, float* to) {
    const int first = batch_.segments[size_t(task.segment)].first + task.first_row;
    for (int i = 0; i < task.rows; ++i, to += group * dim)
      std::copy_n(row(q, first + i) + task.head * group * dim, group * dim, to);
  };
  const auto finish = [&](const AttentionTask& task, const SoftmaxState& state) {
    const int first = batch_.segments[size_t(task.segment)].first + task.first_row;
    for (int i = 0; i < state.vectors; ++i) {
      const int head = task.head * group + i % group;
      float factor = 1.0f / state.total[i];
      if (a.sinks) {  // after all spans, as a last one without a value
        const float sink = data(a.sinks)[head], most = std::max(state.highest[i], sink);
        const float mine = std::exp(state.highest[i] - most);
        factor = mine / (state.total[i] * mine + std::exp(sink - most));
      }
      k_.scale(state.row(i), factor, value_dim);
      std::copy_n(state.row(i), value_dim, row(out, first + i / group) + head * value_dim);
    }
  };
  /// A thread's memory: queries, scores, and the states of a span and of all.
  const auto split = [&](int thread, int vectors, auto&& body) {
    const size_t page = size_t(kv.shape().page_size), latents = a.value_dim > 0 ? page * size_t(dim) : 0;
    const size_t queries = size_t(vectors) * size_t(dim), scores = size_t(vectors) * page + latents,
                 state = SoftmaxState::floats(vectors, value_dim);
    float* base = scratch(thread, queries + scores + 2 * state).data();
    body(base, base + queries, SoftmaxState(base + queries + scores, vectors, value_dim),
         SoftmaxState(base + queries + scores + state, vectors, value_dim));
  };

  int spans = 0;
  for (const AttentionTask& task : tasks) spans = std::max(spans, task.spans());
  if (spans == 1 || int(tasks.size()) >= kTasksPerThread * threads_.threads()) {
    threads_.for_each(int64_t(tasks.size()), [&](int64_t t, int thread) {
      const AttentionTask& task = tasks[size_t(t)];
      split(thread, task.rows * group, [&](float* queries, float* scores, SoftmaxState part, SoftmaxState all) {
        gather(task, queries);
        all.clear();
        for (int span = task.first_span; span <= task.last_span; ++span) {
          attend_span(kv, layer, a, task, span, queries, scores, part);
          all.join(part, k_);
        }
        finish(task, all);
      });
    });
    return out;
  }

  // Few tasks over long contexts: every span is a task of its own, and the states are joined afterwards.
  size_t floats = 0;
  std::vector<size_t> offsets;  // of the states of task t, span by span
  for (const AttentionTask& task : tasks) {
    offsets.push_back(floats);
    floats += size_t(task.spans()) * SoftmaxState::floats(task.rows * group, value_dim);
  }
  span_states_.resize(std::max(span_states_.size(), floats));
  const auto state_of = [&](size_t t, int span) {
    const AttentionTask& task = tasks[t];
    const int vectors = task.rows * group;
    return SoftmaxState(
        span_states_.data() + offsets[t] + size_t(span - task.first_span) * SoftmaxState::floats(vectors, value_dim),
        vectors, value_dim);
  };
  threads_.for_each(int64_t(tasks.size()) * spans, [&](int64_t i, int thread) {
    const size_t t = size_t(i / spans);
    const AttentionTask& task = tasks[t];
    const int span = task.first_span + int(i % spans);
    if (span > task.last_span) return;
    split(thread, task.rows * group, [&](float* queries, float* scores, SoftmaxState, SoftmaxState) {
      gather(task, queries);
      attend_span(kv, layer, a, task, span, queries, scores, state_of(t, span));
    });
  });
  for (size_t t = 0; t < tasks.size(); ++t) {
    split(0, tasks[t].rows * group, [&](float*, float*, SoftmaxState, SoftmaxState all) {
      all.clear();
      for (int span = tasks[t].first_span; span <= tasks[t].last_span; ++span) all.join(state_of(t, span), k_);
      finish(tasks[t], all);
    });
  }
  return out;
}

}  // namespace bumblebee::cpu
