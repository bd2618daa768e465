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

/// Queries and weights of values as words of 16 bits, for products with int8 pages.
struct CpuOps::SpanWords {
  int16_t *queries, *weights;  // [vectors, dim] [vectors, page_size]
  float *query_scales, *weight_scales, *keep;
  static size_t floats(size_t vectors, size_t dim, size_t page) { return vectors * (dim + page) / 2 + 3 * vectors; }
  SpanWords(float* base, size_t vectors, size_t dim) {
    query_scales = base;
    weight_scales = base + vectors;
    keep = base + 2 * vectors;
    queries = reinterpret_cast<int16_t*>(base + 3 * vectors);
    weights = queries + vectors * dim;
  }
};

bool CpuOps::in_words(const CpuKv& kv, const AttentionParams& a) const {
  return fast_ && kv.element() == Element::i8 && a.value_dim == 0 && a.head_dim <= 2 * kWordPairs;
}

namespace {

constexpr int kTaskVectors = 48;        // query vectors (rows times heads of a group) of one task
constexpr size_t kAskBetween = 2048;    // bytes of memory asked for while a query's weights are computed
constexpr int kSpan = 512;              // tokens, a multiple of every page size
constexpr int64_t kSerialAppend = 512;  // features of keys below which waking other threads does not pay
constexpr int kTasksPerThread = 4;      // below this, spans are shared out too

template <class T>
void scatter_column(const void* values, int dim, int page_size, int token, std::byte* keys) {
  const T* from = static_cast<const T*>(values);
  T* column = reinterpret_cast<T*>(keys) + token;
  for (int d = 0; d < dim; ++d) column[size_t(d) * size_t(page_size)] = from[d];
}

void prefetch_floats(const float* p, int count) {
  for (int i = 0; i < count; i += 16) __builtin_prefetch(p + i);
}

/// A key as a column of pairs, and a value as one half of a row of them.
void scatter_key_pairs(const int8_t* key, int dim, int page_size, int token, int8_t* keys) {
  for (int d = 0; d < dim; ++d) keys[(size_t(d / 2) * size_t(page_size) + size_t(token)) * 2 + size_t(d % 2)] = key[d];
}
void scatter_value_pairs(const int8_t* value, int dim, int token, int8_t* values) {
  int8_t* to = values + size_t(token / 2) * size_t(dim) * 2 + size_t(token % 2);
  for (int d = 0; d < dim; ++d) to[2 * size_t(d)] = value[d];
}

/// `rows` rows of `cols` pairs as two rows of f32 each.
const float* part_pairs(const std::byte* pairs, int rows, int cols, float* out) {
  const auto* from = reinterpret_cast<const int8_t*>(pairs);
  for (int r = 0; r < rows; ++r, from += 2 * cols) {
    float *first = out + size_t(2 * r) * size_t(cols), *second = first + cols;
    for (int i = 0; i < cols; ++i) {
      first[i] = from[2 * i];
      second[i] = from[2 * i + 1];
    }
  }
  return out;
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
      std::byte *keys = kv.keys(page, layer, head), *values = kv.values(page, layer, head);
      if (kv.element() == Element::i8) {
        auto* codes = reinterpret_cast<int8_t*>(key);
        kv.key_scales(page, layer, head)[token] = k_.store_i8(k_row, dim, codes);
        scatter_key_pairs(codes, dim, page_size, token, reinterpret_cast<int8_t*>(keys));
        kv.value_scales(page, layer, head)[token] = k_.store_i8(v_row, dim, codes);
        scatter_value_pairs(codes, dim, token, reinterpret_cast<int8_t*>(values));
        continue;
      }
      k_.store(k_row, dim, kv.element(), key);
      k_.store(v_row, dim, kv.element(), values + size_t(token) * size_t(dim) * bytes);
      if (bytes == 4) {
        scatter_column<float>(key, dim, page_size, token, keys);
      } else {
        scatter_column<uint16_t>(key, dim, page_size, token, keys);
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
  const bool latents = a.value_dim > 0, scaled = kv.element() == Element::i8 && !latents, words = in_words(kv, a);
  const size_t vectors = size_t(state.vectors);
  float* const room = scores + vectors * size_t(page_size);
  SpanWords w(room, vectors, size_t(dim));
  for (int i = 0; words && i < state.vectors; ++i)
    w.query_scales[i] = k_.store_words(q + size_t(i) * size_t(dim), dim, w.queries + size_t(i) * size_t(dim));
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
    const int padded = (depth + 15) / 16 * 16;
    if (words) {  // scales lie behind what products ask for
      prefetch_floats(kv.value_scales(id, layer, task.head), page_size);
      if (page < last_page)
        prefetch_floats(kv.key_scales(batch_.pages[size_t(s.first_page + page + 1)], layer, task.head), page_size);
    }
    if (latents) {
      latent = latent_scores(kv, layer, task.head, id, depth, q, state.vectors, a, room, scores);
    } else if (words) {
      k_.word_gemm({.a = w.queries,
                    .a_stride = size_t(dim),
                    .scale = w.query_scales,
                    .b = reinterpret_cast<const int8_t*>(kv.keys(id, layer, task.head)),
                    .b_stride = size_t(page_size),
                    .c = scores,
                    .c_stride = size_t(page_size),
                    .rows = state.vectors,
                    .cols = padded,
                    .pairs = dim / 2,
                    .next = kv.values(id, layer, task.head)});
    } else {
      const std::byte* keys = kv.keys(id, layer, task.head);
      k_.small_gemm({.a = q,
                     .a_stride = size_t(dim),
                     .b = scaled ? part_pairs(keys, dim / 2, page_size, room) : static_cast<const void*>(keys),
                     .b_stride = size_t(page_size),
                     .element = scaled ? Element::f32 : kv.element(),
                     .c = scores,
                     .c_stride = size_t(page_size),
                     .rows = state.vectors,
                     .cols = padded,
                     .depth = dim,
                     .next = scaled ? nullptr : kv.values(id, layer, task.head)});
    }
    // Memory must not rest meanwhile: a part of the next keys, which the product with values asks for the rest of.
    const std::byte* ask = latents ? nullptr : next_keys;
    const size_t ask_each = std::min(kAskBetween, size_t(dim) * size_t(page_size) * kv.element_bytes() / 2 / vectors);
    for (int i = 0; i < state.vectors; ++i) {
      const int position = task.first_position + i / group;
      const int low = std::clamp(a.first_visible(position) - start, 0, depth),
                high = std::clamp(position + 1 - start, low, depth);
      float* p = scores + size_t(i) * size_t(page_size);
      if (ask) {
        for (size_t at = size_t(i) * ask_each; at < size_t(i + 1) * ask_each; at += 64)
          __builtin_prefetch(ask + at, 0, 2);
      }
      if (words) {
        int16_t* const weights = w.weights + size_t(i) * size_t(page_size);
        w.weight_scales[i] = 0;
        w.keep[i] = 1;
        if (low == high) {
          std::fill_n(weights, padded, int16_t{0});
          continue;
        }
        const WordWeights made = k_.word_softmax({.scores = p,
                                                  .count = padded,
                                                  .low = low,
                                                  .high = high,
                                                  .key_scales = kv.key_scales(id, layer, task.head),
                                                  .value_scales = kv.value_scales(id, layer, task.head),
                                                  .scale = a.scale,
                                                  .soft_cap = a.soft_cap,
                                                  .highest = state.highest + i,
                                                  .total = state.total + i,
                                                  .weights = weights});
        w.weight_scales[i] = made.step;
        w.keep[i] = made.keep;
        continue;
      }
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
    const std::byte* values = latents ? nullptr : kv.values(id, layer, task.head);
    if (words) {
      k_.word_gemm({.a = w.weights,
                    .a_stride = size_t(page_size),
                    .scale = w.weight_scales,
                    .b = reinterpret_cast<const int8_t*>(values),
                    .b_stride = size_t(dim),
                    .c = state.sum,
                    .c_stride = size_t(dim),
                    .rows = state.vectors,
                    .cols = dim,
                    .pairs = (depth + 1) / 2,
                    .keep = w.keep,
                    .next = next_keys});
      continue;
    }
    const bool wide = latents || scaled;
    k_.small_gemm({.a = scores,
                   .a_stride = size_t(page_size),
                   .b = latents  ? static_cast<const void*>(latent)
                        : scaled ? part_pairs(values, page_size / 2, dim, room)
                                 : static_cast<const void*>(values),
                   .b_stride = size_t(dim),
                   .element = wide ? Element::f32 : kv.element(),
                   .c = state.sum,
                   .c_stride = size_t(state.dim),
                   .rows = state.vectors,
                   .cols = state.dim,
                   .depth = depth,
                   .accumulate = true,
                   .next = wide ? nullptr : next_keys});
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
    const size_t page = size_t(kv.shape().page_size), n = size_t(vectors);
    const bool plain = a.value_dim == 0 && kv.element() != Element::i8;
    const size_t room = plain ? 0 : in_words(kv, a) ? SpanWords::floats(n, size_t(dim), page) : page * size_t(dim);
    const size_t queries = n * size_t(dim), scores = n * page + room, state = SoftmaxState::floats(vectors, value_dim);
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
