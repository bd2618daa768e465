// What was computed and may be needed again: a tree of whole pages, by the tokens that they hold. A path from a root
// spells the beginning of a prompt, and its pages hold that beginning's keys and values. Tokens are kept and compared,
// so no collision of hashes can answer one request with another's text. What finds a beginning for a prompt is decided
// here alone. Where a model has recurrent layers, a path is of use as far as there is a state at its end: some nodes
// hold one, a checkpoint.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string_view>
#include <vector>

#include "engine/page_table.h"
#include "engine/state_table.h"
#include "lora/adapter_cache.h"

namespace bumblebee::engine {

/// What keys and values depend on beside their tokens, and who may share them.
using PrefixRoot = std::array<uint8_t, 32>;
/// The root of requests with these adapters (none: the base) and this salt.
PrefixRoot prefix_root(std::span<const lora::AdapterCache::Part> adapters, std::string_view salt);

/// Holds pages of a PageTable beside its sequences. Whoever uses a page uses those before it as well, so a page that
/// nobody uses has nobody's page behind it, and all such pages can leave one after the other, the longest unused first.
class PrefixTree {
  struct Node;

 public:
  /// With `states`, of a model with recurrent layers.
  explicit PrefixTree(PageTable& table, StateTable* states = nullptr)
      : table_(table), states_(states), page_size_(size_t(table.page_size())) {}
  PrefixTree(const PrefixTree&) = delete;
  ~PrefixTree();

  struct Match {
    std::vector<int32_t> pages;
    int tokens = 0;        // in these pages; the last one may be of use in part
    Node* last = nullptr;  // of the path
    int32_t state = -1;    // after these tokens; the path goes no further than there is one
    int whole = 0;         // tokens of whole pages that are there without it
  };
  /// The longest beginning of `tokens` that is there and of use.
  Match match(const PrefixRoot& root, std::span<const int32_t> tokens) const;
  /// A match counts as used now. Nothing may have left in between.
  void touch(const Match& match) noexcept { touch(match.last); }

  /// Keeps the whole pages of the first `tokens.size()` tokens of a sequence. Where one is there already, the sequence
  /// takes that one over. With `first_to_leave`, new pages are the first to be evicted. Keeps less when memory is
  /// short.
  void insert(const PrefixRoot& root, std::span<const int32_t> tokens, PageTable::Sequence sequence,
              bool first_to_leave = false) noexcept;

  /// Holds on to the state after these tokens, whole pages that insert() kept; where there is one already, or no page,
  /// nothing happens.
  void keep_state(const PrefixRoot& root, std::span<const int32_t> tokens, int32_t state) noexcept;
  /// Gives up the state that was unused the longest; false when none is held by the tree alone.
  bool evict_state() noexcept;
  /// Gives up this one, whoever else holds it.
  void forget_state(int32_t state) noexcept;

  /// Gives up the page that was unused the longest; false when none is held by the tree alone.
  bool evict() noexcept;
  /// The same for all that the tree alone holds, in one pass.
  void evict_all() noexcept;
  int pages() const { return pages_; }

 private:
  struct Before {
    using is_transparent = void;
    template <class A, class B>
    bool operator()(const A& a, const B& b) const;
  };
  using Children = std::set<std::unique_ptr<Node>, Before>;
  /// A page's worth of tokens, and what follows it. Nodes form a ring by their last use; every node is used later than
  /// those behind it, because whoever uses one uses the path to it.
  struct Node {
    Node* parent = nullptr;
    Node *older = this, *newer = this;
    const PrefixRoot* root = nullptr;  // of those without a parent
    std::vector<int32_t> tokens;
    int32_t page = -1, state = -1;
    Children children;
  };

  static void unlink(Node& node);
  static void link_after(Node& place, Node& node);
  void touch(Node* node) noexcept;
  bool can_leave(const Node& node) const { return node.children.empty() && !table_.is_used(node.page); }
  void remove(Node& node) noexcept;
  Children& children_of(Node* node, const PrefixRoot& root) { return node ? node->children : roots_.at(root); }

  void cut_to_state(Match& match) const;
  void drop_state(Node& node) noexcept;

  PageTable& table_;
  StateTable* const states_;
  const size_t page_size_;
  std::map<PrefixRoot, Children> roots_;
  Node ring_;  // newer: the oldest node, older: the newest
  int pages_ = 0;
};

}  // namespace bumblebee::engine
