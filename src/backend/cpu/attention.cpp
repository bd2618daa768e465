// Causal attention over pages with a running softmax. Heads that share keys are the rows of one small product, so that
// a page of keys is read once for all of them. Softmax runs within spans of kSpan tokens, which begin at fixed
// positions of a sequence, and the spans' results are joined in order: whoever computes a span, and however a prompt
// was cut into batches, a row's sums are the same.
#include <algorithm>
#include <cmath>

#include "backend/cpu/attention_span.h"

namespace bumblebee::cpu {
namespace {

constexpr int kTaskVectors = 48;    // query vectors (rows times heads of a group) of one task
constexpr int kStreamVectors = 8;   // of a head, up to which a task streams
constexpr int kTasksPerThread = 4;  // below this, spans are shared out too
constexpr int kItemsPerThread = 4;  // spans of several heads: fewer would leave threads waiting for the last

}  // namespace

CpuOps::Meeting CpuOps::meeting(const CpuKv& kv, const AttentionParams& a) const {
  if (a.value_dim > 0) return Meeting::latents;
  if (kv.element() == Element::i8) return fast_ && a.head_dim <= 2 * kWordPairs ? Meeting::words : Meeting::parted;
  const bool pairs = fast_ && kv.element() == Element::bf16 && k_.pair_gemm != nullptr && a.head_dim % 16 == 0;
  return pairs ? Meeting::pairs : Meeting::floats;
}

/// Heads of a page lie side by side. Few rows take several in turns, so that memory is read in long runs, as long as
/// that leaves enough items for the threads: where a run begins the processor follows nothing yet.
std::vector<CpuOps::AttentionTask> CpuOps::attention_tasks(Meeting meeting, const AttentionParams& a) const {
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
      const int most = std::max(1, int(std::min<int64_t>({per_item, a.kv_heads, kTaskVectors / (rows * group)})));
      const int parts = (a.kv_heads + most - 1) / most, heads = (a.kv_heads + parts - 1) / parts;  // alike
      const bool widened = meeting == Meeting::parted || meeting == Meeting::latents;
      const bool streams = rows * group <= kStreamVectors && !widened;
      for (int h = 0; h < a.kv_heads; h += heads) {
        tasks.push_back({int(i), h, std::min(heads, a.kv_heads - h), r, rows, first, last,
                         a.first_visible(first) / kSpan, last / kSpan, streams});
      }
    }
  }
  return tasks;
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
  const Meeting how = meeting(kv, a);
  const std::vector<AttentionTask> tasks = attention_tasks(how, a);

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
  const auto split = [&](int thread, const AttentionTask& task, auto&& body) {
    const int vectors = vectors_of(task), page_size = kv.shape().page_size;
    const size_t page = size_t(page_size), n = size_t(vectors), pages = size_t(task.pages_at_once(page_size));
    const size_t room = SpanRoom::floats(how, n, size_t(dim), page, pages),
                 state = SoftmaxState::floats(vectors, value_dim);
    float* base = scratch(thread, room + 2 * state).data();
    body(SpanRoom(base, n, size_t(dim), page, pages), SoftmaxState(base + room, vectors, value_dim),
         SoftmaxState(base + room + state, vectors, value_dim));
  };

  int spans = 0;
  for (const AttentionTask& task : tasks) spans = std::max(spans, task.spans());
  if (spans == 1 || int(tasks.size()) >= kTasksPerThread * threads_.threads()) {
    threads_.for_each(int64_t(tasks.size()), [&](int64_t t, int thread) {
      const AttentionTask& task = tasks[size_t(t)];
      split(thread, task, [&](const SpanRoom& room, SoftmaxState part, SoftmaxState all) {
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
    split(thread, task, [&](const SpanRoom& room, SoftmaxState, SoftmaxState) {
      gather(task, room.queries);
      prepare_queries(how, vectors_of(task), dim, room);
      attend_span(kv, layer, a, task, span, room, state_of(t, span));
    });
  });
  threads_.for_each(int64_t(tasks.size()), [&](int64_t t, int thread) {
    const AttentionTask& task = tasks[size_t(t)];
    split(thread, task, [&](const SpanRoom&, SoftmaxState, SoftmaxState all) {
      all.clear();
      for (int span = task.first_span; span <= task.last_span; ++span) all.join(state_of(size_t(t), span), k_);
      finish(task, all);
    });
  });
  return out;
}

}  // namespace bumblebee::cpu
