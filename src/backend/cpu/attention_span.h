// How attention goes through a span of a sequence: what attention.cpp shares out, and attention_span.cpp computes.
#pragma once

#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {

inline constexpr int kSpan = 512;  // tokens, a multiple of every page size

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

/// Query vectors of `rows` consecutive rows of one segment, and of `heads` heads of keys that follow each other.
struct CpuOps::AttentionTask {
  int segment, head, heads, first_row, rows;
  int first_position, last_position;
  int first_span, last_span;  // that some row sees
  /// All scores of a span come before its values are read: few queries leave memory to be read as one stream.
  bool streams;

  int spans() const { return last_span - first_span + 1; }
  /// Pages' worth of scores that are kept at once.
  int pages_at_once(int page_size) const { return streams ? kSpan / page_size : 1; }
};

/// A thread's memory for the spans of a task: queries as keys meet them, scores and weights of its vectors with the
/// pages that are taken at once, and, where a page is widened, room for it.
struct CpuOps::SpanRoom {
  float *queries, *scores, *wide;  // [vectors, dim] [pages, vectors, page_size] [page_size, dim]
  uint16_t *low, *rest, *weights;  // queries [vectors, dim], as words or bf16, and what is left of them; as scores
  float *query_scales, *weight_scales, *keep;  // [vectors] [pages, vectors] [pages, vectors]
  static size_t floats(Meeting meeting, size_t vectors, size_t dim, size_t page, size_t pages) {
    const size_t plain = vectors * (dim + pages * (page + 1));
    if (meeting == Meeting::floats) return plain;
    if (meeting == Meeting::parted || meeting == Meeting::latents) return plain + page * dim;
    return plain + vectors * (1 + pages + dim + (pages * page + 1) / 2);
  }
  SpanRoom(float* base, size_t vectors, size_t dim, size_t page, size_t pages) {
    queries = base;
    scores = queries + vectors * dim;
    keep = scores + vectors * pages * page;
    wide = query_scales = keep + vectors * pages;
    weight_scales = query_scales + vectors;
    low = reinterpret_cast<uint16_t*>(weight_scales + vectors * pages);
    rest = low + vectors * dim;
    weights = rest + vectors * dim;
  }
};

}  // namespace bumblebee::cpu
