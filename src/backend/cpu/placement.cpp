// Pure arithmetic, and its execution by the pool.
#include "backend/cpu/placement.h"

#include "base/error.h"

namespace bumblebee::cpu {
namespace {

// What a thread places at once: small enough that threads finish together, large enough to amortise the calls, and a
// huge page, which two threads would otherwise pull at.
constexpr size_t kPiece = size_t{2} << 20;

}  // namespace

RowPartition::RowPartition(std::span<const NodeThreads> nodes) : nodes_(nodes.begin(), nodes.end()) {
  int next = 0;
  for (const NodeThreads& node : nodes_) {
    BB_CHECK(node.first == next && node.last > node.first, "threads ", node.first, " to ", node.last, " after ", next);
    next = node.last;
  }
  BB_CHECK(next > 0, "no threads");
}

Range RowPartition::rows_of_node(int64_t rows, size_t node) const {
  return share(rows, kRowGrain, nodes_[node].first, nodes_[node].last, threads());
}

size_t RowPartition::node_of_thread(int thread) const {
  size_t node = 0;
  while (thread >= nodes_[node].last) ++node;
  return node;
}

std::vector<NodeBytes> placement(const HostWeight& weight, const RowPartition& rows) {
  std::vector<NodeBytes> result;
  if (weight.out <= 0) return result;
  for (const std::span<const std::byte> part : {weight.codes, weight.scales, weight.biases}) {
    const size_t row = part.size() / size_t(weight.out);
    for (size_t node = 0; node < rows.nodes().size(); ++node) {
      const Range range = rows.rows_of_node(weight.out, node);
      if (row > 0 && range.size() > 0)
        result.push_back(
            {rows.nodes()[node].node, part.subspan(size_t(range.first) * row, size_t(range.size()) * row)});
    }
  }
  return result;
}

PlacedPages place(const HostWeight& weight, const RowPartition& rows, ThreadPool& threads) {
  if (rows.nodes().size() < 2) return {};
  std::vector<NodeBytes> pieces;
  for (const NodeBytes& range : placement(weight, rows)) {
    for (std::span<const std::byte> rest = range.bytes; !rest.empty();) {
      const size_t to_boundary = kPiece - reinterpret_cast<uintptr_t>(rest.data()) % kPiece;
      const size_t size = std::min(to_boundary, rest.size());
      pieces.push_back({range.node, rest.first(size)});
      rest = rest.subspan(size);
    }
  }
  std::vector<PlacedPages> placed(size_t(threads.threads()));
  threads.for_each(int64_t(pieces.size()), [&](int64_t i, int thread) {
    placed[size_t(thread)] += place_on_node(pieces[size_t(i)].bytes, pieces[size_t(i)].node);
  });
  PlacedPages sum;
  for (const PlacedPages& p : placed) sum += p;
  return sum;
}

}  // namespace bumblebee::cpu
