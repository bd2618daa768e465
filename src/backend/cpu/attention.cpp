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
  /// Of `count` vectors from the i-th on.
  SoftmaxState part(int i, int count) const {
    SoftmaxState some = *this;
    some.vectors = count;
    some.sum = row(i);
    some.highest += i;
    some.total += i;
    return some;
  }
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

CpuOps::Meeting CpuOps::meeting(const CpuKv& kv, const AttentionParams& a) const {
  if (a.value_dim > 0) return Meeting::latents;
  if (kv.element() == Element::i8) return fast_ && a.head_dim <= 2 * kWordPairs ? Meeting::words : Meeting::parted;
  const bool pairs = fast_ && kv.element() == Element::bf16 && k_.pair_gemm != nullptr && a.head_dim % 16 == 0;
  return pairs ? Meeting::pairs : Meeting::floats;
}

/// A thread's memory for the spans of a task: queries as keys meet them, scores and weights of one head's vectors with
/// a page, and, where a page is widened, room for it.
struct CpuOps::SpanRoom {
  float *queries, *scores, *wide;  // [vectors, dim] [vectors, page_size] [page_size, dim]
  uint16_t *low, *rest,
      *weights;  // queries [vectors, dim], as words or bf16, and what is left of them; [.., page_size]
  float *query_scales, *weight_scales, *keep;
  static size_t floats(Meeting meeting, size_t vectors, size_t dim, size_t page) {
    const size_t plain = vectors * (dim + page);
    if (meeting == Meeting::floats) return plain;
    if (meeting == Meeting::parted || meeting == Meeting::latents) return plain + page * dim;
    return plain + vectors * (dim + (page + 1) / 2 + 3);
  }
  SpanRoom(float* base, size_t vectors, size_t dim, size_t page) {
    queries = base;
    scores = queries + vectors * dim;
    wide = query_scales = scores + vectors * page;
    weight_scales = query_scales + vectors;
    keep = weight_scales + vectors;
    low = reinterpret_cast<uint16_t*>(keep + vectors);
    rest = low + vectors * dim;
    weights = rest + vectors * dim;
  }
};

namespace {

constexpr int kTaskVectors = 48;      // query vectors (rows times heads of a group) of one task
constexpr size_t kAskBetween = 2048;  // bytes of memory asked for while a query's weights are computed
constexpr int kSpan = 512;            // tokens, a multiple of every page size
constexpr int kTasksPerThread = 4;    // below this, spans are shared out too
constexpr int kItemsPerThread = 12;   // spans of several heads: fewer would leave threads waiting for the last

void prefetch_floats(const float* p, int count) {
  for (int i = 0; i < count; i += 16) __builtin_prefetch(p + i);
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

/// Query vectors of `rows` consecutive rows of one segment, and of `heads` heads of keys that follow each other.
struct CpuOps::AttentionTask {
  int segment, head, heads, first_row, rows;
  int first_position, last_position;
  int first_span, last_span;  // that some row sees

  int spans() const { return last_span - first_span + 1; }
};

/// What one head has in a page, and what is read after it; `vector` is the head's first one in a task.
struct CpuOps::PageOfHead {
  int layer, id, head;
  int next_id, next_head;    // -1: nothing
  int start = 0, depth = 0;  // tokens [start, start + depth) that some row of the task sees
  int first_position = 0, vector = 0;
};

/// Heads of a page lie side by side. Few rows take several in turns, so that memory is read in long runs, as long as
/// that leaves enough items for the threads.
std::vector<CpuOps::AttentionTask> CpuOps::attention_tasks(const AttentionParams& a) const {
  const int group = a.heads / a.kv_heads, task_rows = std::max(1, kTaskVectors / group);
  const auto spans_of = [&](int first, int last) { return last / kSpan - a.first_visible(first) / kSpan + 1; };
  int64_t spans = 0;
  for (const Segment& s : batch_.segments) {
    for (int r = 0; r < s.rows; r += task_rows)
      spans += spans_of(s.past + r, s.past + std::min(r + task_rows, s.rows) - 1);
  }
  const int64_t per_item = spans * a.kv_heads / (int64_t{kItemsPerThread} * threads_.threads());
  std::vector<AttentionTask> tasks;
  for (size_t i = 0; i < batch_.segments.size(); ++i) {
    const Segment& s = batch_.segments[i];
    for (int r = 0; r < s.rows; r += task_rows) {
      const int rows = std::min(task_rows, s.rows - r), first = s.past + r, last = first + rows - 1;
      const int heads = std::max(1, int(std::min<int64_t>({per_item, a.kv_heads, kTaskVectors / (rows * group)})));
      for (int h = 0; h < a.kv_heads; h += heads) {
        tasks.push_back({int(i), h, std::min(heads, a.kv_heads - h), r, rows, first, last,
                         a.first_visible(first) / kSpan, last / kSpan});
      }
    }
  }
  return tasks;
}

void CpuOps::prepare_queries(Meeting meeting, int vectors, int dim, const SpanRoom& room) {
  for (int i = 0; i < vectors; ++i) {
    const size_t at = size_t(i) * size_t(dim);
    if (meeting == Meeting::words)
      room.query_scales[i] = k_.store_words(room.queries + at, dim, reinterpret_cast<int16_t*>(room.low + at));
    if (meeting == Meeting::pairs) k_.split_bf16(room.queries + at, dim, room.low + at, room.rest + at);
  }
}

void CpuOps::attend_span(const CpuKv& kv, int layer, const AttentionParams& a, const AttentionTask& task, int span,
                         const SpanRoom& room, const SoftmaxState& state) {
  const int page_size = kv.shape().page_size, vectors = state.vectors / task.heads;
  const int begin = std::max(span * kSpan, a.first_visible(task.first_position)),
            end = std::min((span + 1) * kSpan, task.last_position + 1);
  const int last_page = task.last_position / page_size;
  const Segment& s = batch_.segments[size_t(task.segment)];
  state.clear();
  for (int page = begin / page_size; page * page_size < end; ++page) {
    const auto id_of = [&](int p) { return batch_.pages[size_t(s.first_page + p)]; };
    for (int h = 0; h < task.heads; ++h) {
      // Behind the last head the next page, of the next span too: the same thread is likely to compute it.
      PageOfHead at{.layer = layer, .id = id_of(page), .head = task.head + h, .next_id = -1, .next_head = -1};
      if (h + 1 < task.heads) {
        at.next_id = at.id;
        at.next_head = at.head + 1;
      } else if (page < last_page) {
        at.next_id = id_of(page + 1);
        at.next_head = task.head;
      }
      at.start = page * page_size;
      at.depth = std::min(page_size, end - at.start);
      at.first_position = task.first_position;
      at.vector = h * vectors;
      attend_page(kv, a, at, room, state.part(at.vector, vectors));
    }
  }
}

void CpuOps::attend_page(const CpuKv& kv, const AttentionParams& a, const PageOfHead& page, const SpanRoom& room,
                         const SoftmaxState& state) {
  const int dim = a.head_dim, page_size = kv.shape().page_size, depth = page.depth, vectors = state.vectors;
  const Meeting meeting = this->meeting(kv, a);
  const bool next = page.next_id >= 0 && meeting != Meeting::latents && meeting != Meeting::parted;
  const std::byte* const next_keys = next ? kv.keys(page.next_id, page.layer, page.next_head) : nullptr;
  const std::byte* const keys = kv.keys(page.id, page.layer, page.head);
  const std::byte* const values = meeting == Meeting::latents ? nullptr : kv.values(page.id, page.layer, page.head);
  const size_t first = size_t(page.vector) * size_t(dim), width = size_t(dim), stride = size_t(page_size);
  const int padded = (depth + 15) / 16 * 16;
  const float* latent = nullptr;
  switch (meeting) {
    case Meeting::latents:
      latent = latent_scores(kv, page.layer, page.head, page.id, depth, room.queries + first, vectors, a, room.wide,
                             room.scores);
      break;
    case Meeting::words:
      // Scales lie behind what products ask for.
      prefetch_floats(kv.value_scales(page.id, page.layer, page.head), page_size);
      if (next) prefetch_floats(kv.key_scales(page.next_id, page.layer, page.next_head), page_size);
      k_.word_gemm({.a = reinterpret_cast<const int16_t*>(room.low + first),
                    .a_stride = width,
                    .scale = room.query_scales + page.vector,
                    .b = reinterpret_cast<const int8_t*>(keys),
                    .b_stride = stride,
                    .c = room.scores,
                    .c_stride = stride,
                    .rows = vectors,
                    .cols = padded,
                    .pairs = dim / 2,
                    .next = values});
      break;
    case Meeting::pairs:
      k_.pair_gemm({.a = room.low + first,
                    .rest = room.rest + first,
                    .a_stride = width,
                    .b = reinterpret_cast<const uint32_t*>(keys),
                    .b_stride = stride,
                    .c = room.scores,
                    .c_stride = stride,
                    .rows = vectors,
                    .cols = padded,
                    .depth = dim,
                    .next = values});
      break;
    default: {
      const bool parted = meeting == Meeting::parted;
      k_.small_gemm({.a = room.queries + first,
                     .a_stride = width,
                     .b = parted ? part_pairs(keys, dim / 2, page_size, room.wide) : static_cast<const void*>(keys),
                     .b_stride = stride,
                     .element = parted ? Element::f32 : kv.element(),
                     .c = room.scores,
                     .c_stride = stride,
                     .rows = vectors,
                     .cols = padded,
                     .depth = dim,
                     .next = parted ? nullptr : values});
    }
  }
  // Memory must not rest meanwhile: a part of the next keys, which the product with values asks for the rest of.
  const size_t ask_each = std::min(kAskBetween, width * stride * kv.element_bytes() / 2 / size_t(vectors));
  for (int i = 0; i < vectors; ++i) {
    const std::byte* const ask = next ? next_keys + size_t(i) * ask_each : nullptr;
    for (size_t at = 0; ask != nullptr && at < ask_each; at += 64) __builtin_prefetch(ask + at, 0, 2);
    weigh(kv, a, page, i, meeting, room, state);
  }
  if (meeting == Meeting::words) {
    k_.word_gemm({.a = reinterpret_cast<const int16_t*>(room.weights),
                  .a_stride = stride,
                  .scale = room.weight_scales,
                  .b = reinterpret_cast<const int8_t*>(values),
                  .b_stride = width,
                  .c = state.sum,
                  .c_stride = width,
                  .rows = vectors,
                  .cols = dim,
                  .pairs = (depth + 1) / 2,
                  .keep = room.keep,
                  .next = next_keys});
  } else if (meeting == Meeting::pairs) {
    k_.pair_gemm({.a = room.weights,
                  .a_stride = stride,
                  .b = reinterpret_cast<const uint32_t*>(values),
                  .b_stride = width,
                  .c = state.sum,
                  .c_stride = width,
                  .rows = vectors,
                  .cols = dim,
                  .depth = depth,
                  .accumulate = true,
                  .next = next_keys});
  } else {
    const bool latents = meeting == Meeting::latents, parted = meeting == Meeting::parted;
    k_.small_gemm({.a = room.scores,
                   .a_stride = stride,
                   .b = latents  ? static_cast<const void*>(latent)
                        : parted ? part_pairs(values, page_size / 2, dim, room.wide)
                                 : static_cast<const void*>(values),
                   .b_stride = width,
                   .element = latents || parted ? Element::f32 : kv.element(),
                   .c = state.sum,
                   .c_stride = size_t(state.dim),
                   .rows = vectors,
                   .cols = state.dim,
                   .depth = depth,
                   .accumulate = true,
                   .next = next_keys});
  }
}

/// The i-th vector's scores with a page become weights of its values.
void CpuOps::weigh(const CpuKv& kv, const AttentionParams& a, const PageOfHead& page, int i, Meeting meeting,
                   const SpanRoom& room, const SoftmaxState& state) {
  const int position = page.first_position + i / (a.heads / a.kv_heads), depth = page.depth;
  const int padded = (depth + 15) / 16 * 16;
  const int low = std::clamp(a.first_visible(position) - page.start, 0, depth),
            high = std::clamp(position + 1 - page.start, low, depth);
  const size_t at = size_t(i) * size_t(kv.shape().page_size);
  float* const p = room.scores + at;
  if (meeting == Meeting::words) {
    auto* const weights = reinterpret_cast<int16_t*>(room.weights + at);
    room.weight_scales[i] = 0;
    room.keep[i] = 1;
    if (low == high) {
      std::fill_n(weights, padded, int16_t{0});
      return;
    }
    const WordWeights made = k_.word_softmax({.scores = p,
                                              .count = padded,
                                              .low = low,
                                              .high = high,
                                              .key_scales = kv.key_scales(page.id, page.layer, page.head),
                                              .value_scales = kv.value_scales(page.id, page.layer, page.head),
                                              .scale = a.scale,
                                              .soft_cap = a.soft_cap,
                                              .highest = state.highest + i,
                                              .total = state.total + i,
                                              .weights = weights});
    room.weight_scales[i] = made.step;
    room.keep[i] = made.keep;
    return;
  }
  const bool parted = meeting == Meeting::parted;
  float scale = a.scale;
  if (parted) k_.multiply(p + low, kv.key_scales(page.id, page.layer, page.head) + low, high - low);
  if (a.soft_cap > 0) {
    k_.soft_cap(p + low, a.scale / a.soft_cap, a.soft_cap, high - low);
    scale = 1;
  }
  const float shrink = k_.page_softmax({.scores = p,
                                        .count = meeting == Meeting::pairs ? padded : depth,
                                        .low = low,
                                        .high = high,
                                        .scale = scale,
                                        .highest = state.highest + i,
                                        .total = state.total + i});
  if (shrink != 1) k_.scale(state.row(i), shrink, state.dim);
  if (parted) k_.multiply(p + low, kv.value_scales(page.id, page.layer, page.head) + low, high - low);
  if (meeting == Meeting::pairs) k_.round_bf16(p, padded, room.weights + at);
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

  const Meeting how = meeting(kv, a);
  const auto vectors_of = [&](const AttentionTask& task) { return task.heads * task.rows * group; };

  const auto gather = [&](const AttentionTask& task, float* to) {
    const int first = batch_.segments[size_t(task.segment)].first + task.first_row;
    for (int h = task.head; h < task.head + task.heads; ++h) {
      for (int i = 0; i < task.rows; ++i, to += group * dim)
        std::copy_n(row(q, first + i) + h * group * dim, group * dim, to);
    }
  };
  const auto finish = [&](const AttentionTask& task, const SoftmaxState& state) {
    const int first = batch_.segments[size_t(task.segment)].first + task.first_row, each = task.rows * group;
    for (int i = 0; i < state.vectors; ++i) {
      const int head = (task.head + i / each) * group + i % group;
      float factor = 1.0f / state.total[i];
      if (a.sinks) {  // after all spans, as a last one without a value
        const float sink = data(a.sinks)[head], most = std::max(state.highest[i], sink);
        const float mine = std::exp(state.highest[i] - most);
        factor = mine / (state.total[i] * mine + std::exp(sink - most));
      }
      k_.scale(state.row(i), factor, value_dim);
      std::copy_n(state.row(i), value_dim, row(out, first + i % each / group) + head * value_dim);
    }
  };
  /// A thread's memory: room for spans, and the states of a span and of all.
  const auto split = [&](int thread, int vectors, auto&& body) {
    const size_t page = size_t(kv.shape().page_size), n = size_t(vectors);
    const size_t room = SpanRoom::floats(how, n, size_t(dim), page), state = SoftmaxState::floats(vectors, value_dim);
    float* base = scratch(thread, room + 2 * state).data();
    body(SpanRoom(base, n, size_t(dim), page), SoftmaxState(base + room, vectors, value_dim),
         SoftmaxState(base + room + state, vectors, value_dim));
  };

  int spans = 0;
  for (const AttentionTask& task : tasks) spans = std::max(spans, task.spans());
  if (spans == 1 || int(tasks.size()) >= kTasksPerThread * threads_.threads()) {
    threads_.for_each(int64_t(tasks.size()), [&](int64_t t, int thread) {
      const AttentionTask& task = tasks[size_t(t)];
      split(thread, vectors_of(task), [&](const SpanRoom& room, SoftmaxState part, SoftmaxState all) {
        gather(task, room.queries);
        prepare_queries(how, all.vectors, dim, room);
        all.clear();
        for (int span = task.first_span; span <= task.last_span; ++span) {
          attend_span(kv, layer, a, task, span, room, part);
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
    floats += size_t(task.spans()) * SoftmaxState::floats(vectors_of(task), value_dim);
  }
  span_states_.resize(std::max(span_states_.size(), floats));
  const auto state_of = [&](size_t t, int span) {
    const AttentionTask& task = tasks[t];
    const int vectors = vectors_of(task);
    return SoftmaxState(
        span_states_.data() + offsets[t] + size_t(span - task.first_span) * SoftmaxState::floats(vectors, value_dim),
        vectors, value_dim);
  };
  threads_.for_each(int64_t(tasks.size()) * spans, [&](int64_t i, int thread) {
    const size_t t = size_t(i / spans);
    const AttentionTask& task = tasks[t];
    const int span = task.first_span + int(i % spans);
    if (span > task.last_span) return;
    split(thread, vectors_of(task), [&](const SpanRoom& room, SoftmaxState, SoftmaxState) {
      gather(task, room.queries);
      prepare_queries(how, vectors_of(task), dim, room);
      attend_span(kv, layer, a, task, span, room, state_of(t, span));
    });
  });
  threads_.for_each(int64_t(tasks.size()), [&](int64_t t, int thread) {
    const AttentionTask& task = tasks[size_t(t)];
    split(thread, vectors_of(task), [&](const SpanRoom&, SoftmaxState, SoftmaxState all) {
      all.clear();
      for (int span = task.first_span; span <= task.last_span; ++span) all.join(state_of(size_t(t), span), k_);
      finish(task, all);
    });
  });
  return out;
}

}  // namespace bumblebee::cpu
