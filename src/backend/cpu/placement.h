// Which thread multiplies by which rows of a weight, and so on which node of memory their bytes belong. Both follow
// from one formula: a node's rows of a weight do not depend on what the weight is multiplied together with.
#pragma once

#include <span>
#include <vector>

#include "backend/cpu/kernels.h"
#include "base/numa.h"
#include "base/partition.h"
#include "base/thread_pool.h"
#include "quant/format.h"

namespace bumblebee::cpu {

/// Rows that a thread takes at least, so that kernels work on whole blocks.
constexpr int64_t kRowGrain = 16;

/// A piece of a thread's rows, so that others can take what it has not begun.
struct PartPiece {
  int thread = 0, piece = 0, pieces = 1;
};

class RowPartition {
 public:
  /// `nodes` cover the threads of a pool in order (ThreadPlan::nodes).
  explicit RowPartition(std::span<const NodeThreads> nodes);

  int threads() const { return nodes_.back().last; }
  std::span<const NodeThreads> nodes() const { return nodes_; }

  /// Rows of a weight [rows, in] that the threads of nodes()[node] multiply by.
  Range rows_of_node(int64_t rows, size_t node) const;

  /// Calls body(term, first, last) for the rows that a thread takes of weights with outs(term) rows each, which are
  /// multiplied together: of its even share of its node's rows of all of them, laid end to end, the piece that `p`
  /// names. Pieces begin at multiples of `grain` rows of the share.
  template <class Outs, class Body>
  void each(int terms, Outs outs, PartPiece p, int64_t grain, Body body) const {
    const size_t node = node_of_thread(p.thread);
    const NodeThreads& own = nodes_[node];
    int64_t total = 0;
    for (int t = 0; t < terms; ++t) total += rows_of_node(outs(t), node).size();
    const Range all = share(total, kRowGrain, p.thread - own.first, p.thread - own.first + 1, own.last - own.first);
    Range part = share(all.size(), grain, p.piece, p.piece + 1, p.pieces);
    part = {all.first + part.first, all.first + part.last};
    int64_t base = 0;  // of this term among the node's rows of all terms
    for (int t = 0; t < terms; ++t) {
      const Range rows = rows_of_node(outs(t), node);
      const int64_t first = std::clamp<int64_t>(part.first - base, 0, rows.size()),
                    last = std::clamp<int64_t>(part.last - base, 0, rows.size());
      if (first < last) body(t, int(rows.first + first), int(rows.first + last));
      base += rows.size();
    }
  }

 private:
  friend class CostPartition;
  size_t node_of_thread(int thread) const;
  std::vector<NodeThreads> nodes_;
};

/// The same where a row of term t costs costs(t): every thread's work costs about as much. Rows go to threads in blocks
/// of kRowGrain. Made once for a product and then asked by all threads: terms may be hundreds.
class CostPartition {
 public:
  template <class Outs, class Costs>
  CostPartition(const RowPartition& rows, int terms, Outs outs, Costs costs) : rows_(rows), terms_(terms) {
    for (size_t node = 0; node < rows.nodes().size(); ++node) {
      int64_t total = 0;
      for (int t = 0; t < terms; ++t) {
        const Range own = rows.rows_of_node(outs(t), node);
        spans_.push_back({.base = total, .rows = own, .cost = costs(t)});
        total += own.size() * costs(t);
      }
      totals_.push_back(total);
    }
  }

  /// Calls body(term, first, last) for the rows of the piece that `p` names.
  template <class Body>
  void each(PartPiece p, Body body) const {
    const size_t node = rows_.node_of_thread(p.thread);
    const NodeThreads& own = rows_.nodes()[node];
    const int64_t piece = int64_t{p.thread - own.first} * p.pieces + p.piece;
    const Range part = share(totals_[node], 1, piece, piece + 1, int64_t{own.last - own.first} * p.pieces);
    const Span* const spans = spans_.data() + node * size_t(terms_);
    const auto after = std::upper_bound(spans, spans + terms_, part.first,
                                        [](int64_t at, const Span& span) { return at < span.base; });
    for (int t = std::max(0, int(after - spans) - 1); t < terms_ && spans[t].base < part.last; ++t) {
      const int64_t first = spans[t].boundary(part.first), last = spans[t].boundary(part.last);
      if (first < last) body(t, int(spans[t].rows.first + first), int(spans[t].rows.first + last));
    }
  }

 private:
  struct Span {
    int64_t base = 0;  // cost of the terms before
    Range rows;        // of the node
    int64_t cost = 0;  // of a row
    /// The row at which a piece that ends at cost `at` ends; the same for the end of one and the beginning of the next.
    int64_t boundary(int64_t at) const {
      if (at <= base) return 0;
      return at >= base + rows.size() * cost ? rows.size() : (at - base) / cost / kRowGrain * kRowGrain;
    }
  };
  const RowPartition& rows_;
  int terms_ = 0;
  std::vector<Span> spans_;  // [node, term]
  std::vector<int64_t> totals_;
};

/// Bytes that belong on a node.
struct NodeBytes {
  int node = 0;
  std::span<const std::byte> bytes;
};

/// The ranges of a weight's codes, scales and biases, by the node whose threads read them.
std::vector<NodeBytes> placement(const HostWeight& weight, const RowPartition& rows);

/// Puts a weight where placement() says, with all threads of the pool; with one node does nothing.
PlacedPages place(const HostWeight& weight, const RowPartition& rows, ThreadPool& threads);

}  // namespace bumblebee::cpu
