// A span of a sequence for the queries of a task: products with keys, softmax, products with values. Many queries take
// a page of one head at a time, since they are what costs; its values are asked for while its keys are read, and the
// next keys meanwhile. Few queries leave the processor waiting for memory, so they take all pages' keys first, as they
// lie, and then all values: streams that the processor follows by itself, and faster than it fetches what it is asked
// for. Either way each vector meets the same numbers in the same order.
#include "backend/cpu/attention_span.h"

namespace bumblebee::cpu {
namespace {

constexpr size_t kAskBetween = 2048;   // bytes of memory asked for while a query's weights are computed
constexpr size_t kAskOfStream = 1024;  // the same where all values come later
constexpr size_t kStreamBegin = 2048;  // bytes of a stream's next part that are asked for when this one begins
/// Query vectors of a head up to which products are so short that the processor sees ahead by itself.
constexpr int kSeesAhead = 2;

void prefetch_bytes(const std::byte* p, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at, 0, 2);
}

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

/// A span of a task: its parts are what one head has in one page, pages after each other and heads within.
struct CpuOps::SpanWork {
  const CpuKv& kv;
  const AttentionParams& a;
  const AttentionTask& task;
  const SpanRoom& room;
  const SoftmaxState& state;
  Meeting meeting;
  int layer, vectors;              // of a head
  const int32_t* pages;            // of the segment
  int first_page, last_page, end;  // tokens of the span end there; the last page is the task's

  /// What one head has in a page. `vector` is the head's first one in the task.
  struct Part {
    int page, id, head, vector;
    int start, depth;  // tokens [start, start + depth) that some row of the task sees
    int padded() const { return (depth + 15) / 16 * 16; }
  };
  int page_size() const { return kv.shape().page_size; }
  int parts() const { return ((end - 1) / page_size() - first_page + 1) * task.heads; }
  Part part(int i) const {
    const int page = first_page + i / task.heads, h = i % task.heads, start = page * page_size();
    return {page, pages[page], task.head + h, h * vectors, start, std::min(page_size(), end - start)};
  }
  const std::byte* keys(const Part& p) const { return kv.keys(p.id, layer, p.head); }
  const std::byte* values(const Part& p) const { return kv.values(p.id, layer, p.head); }
  /// The keys behind part i, of the next span too, which the same thread is likely to compute; null where nothing is.
  const std::byte* next_keys(int i) const {
    if (i + 1 < parts()) return keys(part(i + 1));
    const int page = first_page + (i + 1) / task.heads;
    return page <= last_page ? kv.keys(pages[page], layer, task.head) : nullptr;
  }
  /// Where the `slot`-th of the parts that are taken at once has its i-th vector.
  size_t at(int slot, int i) const { return size_t(slot) * size_t(vectors) + size_t(i); }
};

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
  const int page_size = kv.shape().page_size;
  const int begin = std::max(span * kSpan, a.first_visible(task.first_position));
  const Segment& s = batch_.segments[size_t(task.segment)];
  const SpanWork work{.kv = kv,
                      .a = a,
                      .task = task,
                      .room = room,
                      .state = state,
                      .meeting = meeting(kv, a),
                      .layer = layer,
                      .vectors = state.vectors / task.heads,
                      .pages = batch_.pages.data() + s.first_page,
                      .first_page = begin / page_size,
                      .last_page = task.last_position / page_size,
                      .end = std::min((span + 1) * kSpan, task.last_position + 1)};
  state.clear();
  const int parts = work.parts();
  if (task.streams) return stream_parts(work, parts);
  const bool asks = work.meeting != Meeting::latents && work.meeting != Meeting::parted;
  for (int i = 0; i < parts; ++i) {
    const SpanWork::Part part = work.part(i);
    const std::byte* const next = asks ? work.next_keys(i) : nullptr;
    // Memory must not rest meanwhile: a part of the next keys, which the product with values asks for the rest of.
    const size_t half = size_t(a.head_dim) * size_t(page_size) * kv.element_bytes() / 2;
    const size_t ask_each = std::min(kAskBetween, half / size_t(work.vectors));
    meet_keys(work, i, 0, asks ? work.values(part) : nullptr);
    for (int v = 0; v < work.vectors; ++v) {
      if (next != nullptr) prefetch_bytes(next + size_t(v) * ask_each, ask_each);
      weigh(work, i, 0, v);
    }
    meet_values(work, i, 0, next);
  }
}

/// All parts' keys, then all softmax, then all values.
void CpuOps::stream_parts(const SpanWork& work, int parts) {
  const int heads = work.task.heads;
  const bool asks = work.vectors > kSeesAhead;
  for (int i = 0; i < parts; ++i) {
    if (!asks && i % heads == 0 && i + heads < parts) prefetch_bytes(work.keys(work.part(i + heads)), kStreamBegin);
    const std::byte* next = i + 1 < parts ? work.keys(work.part(i + 1)) : work.values(work.part(0));
    meet_keys(work, i, i, asks ? next : nullptr);
  }
  // Memory must not rest meanwhile: heads' values lie one behind the other in each page.
  const size_t run = size_t(heads) * work.kv.head_bytes(work.layer);
  size_t asked = 0;
  for (int i = 0; i < parts; ++i) {
    for (int v = 0; v < work.vectors; ++v, asked += kAskOfStream) {
      const int page = int(asked / run);
      if (page * heads < parts) prefetch_bytes(work.values(work.part(page * heads)) + asked % run, kAskOfStream);
      weigh(work, i, i, v);
    }
  }
  for (int i = 0; i < parts; ++i) {
    const bool last = i + 1 == parts;
    if (!asks && i % heads == 0) {
      const std::byte* next = i + heads < parts ? work.values(work.part(i + heads)) : work.next_keys(parts - 1);
      if (next != nullptr) prefetch_bytes(next, kStreamBegin);
    }
    const std::byte* next = last ? work.next_keys(i) : work.values(work.part(i + 1));
    meet_values(work, i, i, asks ? next : nullptr);
  }
}

/// Scores of a part, in `slot`. `next` is asked for meanwhile and may be null.
void CpuOps::meet_keys(const SpanWork& work, int i, int slot, const std::byte* next) {
  const SpanWork::Part part = work.part(i);
  const SpanRoom& room = work.room;
  const int dim = work.a.head_dim, page_size = work.page_size(), vectors = work.vectors;
  const std::byte* const keys = work.keys(part);
  const size_t first = size_t(part.vector) * size_t(dim), width = size_t(dim), stride = size_t(page_size);
  float* const scores = room.scores + work.at(slot, 0) * stride;
  switch (work.meeting) {
    case Meeting::latents:
      latent_scores(work.kv, work.layer, part.head, part.id, part.depth, room.queries + first, vectors, work.a,
                    room.wide, scores);
      return;
    case Meeting::words:
      // Scales lie behind what products ask for.
      prefetch_floats(work.kv.key_scales(part.id, work.layer, part.head), page_size);
      prefetch_floats(work.kv.value_scales(part.id, work.layer, part.head), page_size);
      return k_.word_gemm({.a = reinterpret_cast<const int16_t*>(room.low + first),
                           .a_stride = width,
                           .scale = room.query_scales + part.vector,
                           .b = reinterpret_cast<const int8_t*>(keys),
                           .b_stride = stride,
                           .c = scores,
                           .c_stride = stride,
                           .rows = vectors,
                           .cols = part.padded(),
                           .pairs = dim / 2,
                           .next = next});
    case Meeting::pairs:
      return k_.pair_gemm({.a = room.low + first,
                           .rest = room.rest + first,
                           .a_stride = width,
                           .b = reinterpret_cast<const uint32_t*>(keys),
                           .b_stride = stride,
                           .c = scores,
                           .c_stride = stride,
                           .rows = vectors,
                           .cols = part.padded(),
                           .depth = dim,
                           .next = next});
    default: {
      const bool parted = work.meeting == Meeting::parted;
      return k_.small_gemm(
          {.a = room.queries + first,
           .a_stride = width,
           .b = parted ? part_pairs(keys, dim / 2, page_size, room.wide) : static_cast<const void*>(keys),
           .b_stride = stride,
           .element = parted ? Element::f32 : work.kv.element(),
           .c = scores,
           .c_stride = stride,
           .rows = vectors,
           .cols = part.padded(),
           .depth = dim,
           .next = next});
    }
  }
}

/// The v-th vector's scores with a part become weights of its values.
void CpuOps::weigh(const SpanWork& work, int i, int slot, int v) {
  const SpanWork::Part part = work.part(i);
  const AttentionParams& a = work.a;
  const SoftmaxState state = work.state.part(part.vector, work.vectors);
  const int position = work.task.first_position + v / (a.heads / a.kv_heads);
  const int low = std::clamp(a.first_visible(position) - part.start, 0, part.depth),
            high = std::clamp(position + 1 - part.start, low, part.depth);
  const size_t row = work.at(slot, v), at = row * size_t(work.page_size());
  const auto key_scales = [&] { return work.kv.key_scales(part.id, work.layer, part.head); };
  const auto value_scales = [&] { return work.kv.value_scales(part.id, work.layer, part.head); };
  float* const p = work.room.scores + at;
  if (work.meeting == Meeting::words) {
    auto* const weights = reinterpret_cast<int16_t*>(work.room.weights + at);
    WordWeights made;
    if (low == high) {
      std::fill_n(weights, part.padded(), int16_t{0});
    } else {
      made = k_.word_softmax({.scores = p,
                              .count = part.padded(),
                              .low = low,
                              .high = high,
                              .key_scales = key_scales(),
                              .value_scales = value_scales(),
                              .scale = a.scale,
                              .soft_cap = a.soft_cap,
                              .highest = state.highest + v,
                              .total = state.total + v,
                              .weights = weights});
    }
    work.room.weight_scales[row] = made.step;
    work.room.keep[row] = made.keep;
    return;
  }
  const bool parted = work.meeting == Meeting::parted, pairs = work.meeting == Meeting::pairs;
  float scale = a.scale;
  if (parted) k_.multiply(p + low, key_scales() + low, high - low);
  if (a.soft_cap > 0) {
    k_.soft_cap(p + low, a.scale / a.soft_cap, a.soft_cap, high - low);
    scale = 1;
  }
  work.room.keep[row] = k_.page_softmax({.scores = p,
                                         .count = pairs ? part.padded() : part.depth,
                                         .low = low,
                                         .high = high,
                                         .scale = scale,
                                         .highest = state.highest + v,
                                         .total = state.total + v});
  if (parted) k_.multiply(p + low, value_scales() + low, high - low);
  if (pairs) k_.round_bf16(p, part.padded(), work.room.weights + at);
}

/// Adds a part's weighted values to its head's sums. `next` as for keys.
void CpuOps::meet_values(const SpanWork& work, int i, int slot, const std::byte* next) {
  const SpanWork::Part part = work.part(i);
  const SpanRoom& room = work.room;
  const SoftmaxState state = work.state.part(part.vector, work.vectors);
  const size_t width = size_t(work.a.head_dim), stride = size_t(work.page_size()), row = work.at(slot, 0);
  const float* const keep = room.keep + row;
  const auto values = [&] { return work.values(part); };
  if (work.meeting == Meeting::words) {
    return k_.word_gemm({.a = reinterpret_cast<const int16_t*>(room.weights + row * stride),
                         .a_stride = stride,
                         .scale = room.weight_scales + row,
                         .b = reinterpret_cast<const int8_t*>(values()),
                         .b_stride = width,
                         .c = state.sum,
                         .c_stride = width,
                         .rows = work.vectors,
                         .cols = work.a.head_dim,
                         .pairs = (part.depth + 1) / 2,
                         .keep = keep,
                         .next = next});
  }
  for (int v = 0; v < work.vectors; ++v) {
    if (keep[v] != 1) k_.scale(state.row(v), keep[v], state.dim);
  }
  if (work.meeting == Meeting::pairs) {
    return k_.pair_gemm({.a = room.weights + row * stride,
                         .a_stride = stride,
                         .b = reinterpret_cast<const uint32_t*>(values()),
                         .b_stride = width,
                         .c = state.sum,
                         .c_stride = width,
                         .rows = work.vectors,
                         .cols = work.a.head_dim,
                         .depth = part.depth,
                         .accumulate = true,
                         .next = next});
  }
  const void* b = nullptr;
  const bool latents = work.meeting == Meeting::latents, parted = work.meeting == Meeting::parted;
  if (latents) {
    // As latent_scores() left them.
    b = work.kv.element() == Element::f32 ? static_cast<const void*>(work.keys(part)) : room.wide;
  } else {
    b = parted ? part_pairs(values(), work.page_size() / 2, work.a.head_dim, room.wide)
               : static_cast<const void*>(values());
  }
  k_.small_gemm({.a = room.scores + row * stride,
                 .a_stride = stride,
                 .b = b,
                 .b_stride = width,
                 .element = latents || parted ? Element::f32 : work.kv.element(),
                 .c = state.sum,
                 .c_stride = size_t(state.dim),
                 .rows = work.vectors,
                 .cols = state.dim,
                 .depth = part.depth,
                 .accumulate = true,
                 .next = next});
}

}  // namespace bumblebee::cpu
