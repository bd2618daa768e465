// Memory of nodes: where pages lie, moving them, and preferring a node for new ones. Raw system calls; where the kernel
// or a container's filter refuses them, everything works from wherever the memory is.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace bumblebee {

/// What became of the pages of one or several ranges.
struct PlacedPages {
  size_t pages = 0;    // asked for
  size_t on_node = 0;  // lie where they should, moved or not
  int error = 0;       // errno of the first refusal; 0 when there was none
  PlacedPages& operator+=(const PlacedPages& other);
};

/// For people: "1234 of 1234 pages on their nodes", or why not.
std::string to_string(const PlacedPages& placed);

size_t memory_page_size();

/// The pages whose first byte lies in `bytes`: ranges that meet never share one, and lose none between them.
std::span<const std::byte> whole_pages(std::span<const std::byte> bytes);

/// Brings the pages of `bytes` in, from the file where they map one, and onto `node`. Pages that are new go there at
/// once; those that exist are moved unless another process has them mapped too. Contents and addresses stay.
PlacedPages place_on_node(std::span<const std::byte> bytes, int node);

/// The node that holds the page at `address`, or -1 when it is not in memory or cannot be known.
int node_of(const std::byte* address);

/// While it lives, new memory of this thread comes from `node` as long as it has any.
class PreferNode {
 public:
  explicit PreferNode(int node);
  ~PreferNode();
  PreferNode(const PreferNode&) = delete;
  PreferNode& operator=(const PreferNode&) = delete;
  bool granted() const { return granted_; }

 private:
  static constexpr size_t kWords = 1024 / (8 * sizeof(unsigned long));  // bits of the kernel's largest set of nodes
  int mode_ = 0;
  unsigned long nodes_[kWords] = {};
  bool granted_ = false;
};

/// Tries with a page of its own whether this process may place memory on `node`.
PlacedPages try_placement(int node);

}  // namespace bumblebee
