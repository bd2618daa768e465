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

  /// The same where a row of term t costs costs(t): every thread's work costs about as much. Rows go to threads in
  /// blocks of kRowGrain.
  template <class Outs, class Costs, class Body>
  void each_by_cost(int terms, Outs outs, Costs costs, PartPiece p, Body body) const {
    const size_t node = node_of_thread(p.thread);
    const NodeThreads& own = nodes_[node];
    int64_t total = 0;
    for (int t = 0; t < terms; ++t) total += rows_of_node(outs(t), node).size() * costs(t);
    const int64_t piece = int64_t{p.thread - own.first} * p.pieces + p.piece;
    const Range part = share(total, 1, piece, piece + 1, int64_t{own.last - own.first} * p.pieces);
    int64_t base = 0;
    for (int t = 0; t < terms; ++t) {
      const Range rows = rows_of_node(outs(t), node);
      const int64_t cost = costs(t), size = rows.size();
      // The same for the end of one thread's part and the beginning of the next one's.
      const auto boundary = [&](int64_t at) {
        if (at <= base) return int64_t{0};
        return std::min(size, at >= base + size * cost ? size : (at - base) / cost / kRowGrain * kRowGrain);
      };
      const int64_t first = boundary(part.first), last = boundary(part.last);
      if (first < last) body(t, int(rows.first + first), int(rows.first + last));
      base += size * cost;
    }
  }

 private:
  size_t node_of_thread(int thread) const;
  std::vector<NodeThreads> nodes_;
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
