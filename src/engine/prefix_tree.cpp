// Children are ordered by their tokens, so that the one with the longest common beginning is a neighbour of where a
// prompt would stand.
#include "engine/prefix_tree.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/blake2b.h"
#include "base/error.h"

namespace bumblebee::engine {
namespace {

using Tokens = std::span<const int32_t>;

Tokens tokens_of(Tokens tokens) { return tokens; }
template <class NodePointer>
Tokens tokens_of(const NodePointer& node) {
  return node->tokens;
}

size_t common(Tokens a, Tokens b) {
  return size_t(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

}  // namespace

PrefixRoot prefix_root(std::span<const lora::AdapterCache::Part> adapters, std::string_view salt) {
  const lora::AdapterId set = lora::AdapterCache::identity(adapters);
  PrefixRoot root;
  Blake2b hash(root.size());
  hash.update(std::as_bytes(std::span(set.bytes)));
  hash.update(std::as_bytes(std::span(salt)));
  hash.finish(root);
  return root;
}

template <class A, class B>
bool PrefixTree::Before::operator()(const A& a, const B& b) const {
  const Tokens left = tokens_of(a), right = tokens_of(b);
  return std::lexicographical_compare(left.begin(), left.end(), right.begin(), right.end());
}

PrefixTree::~PrefixTree() { evict_all(); }

void PrefixTree::unlink(Node& node) {
  node.older->newer = node.newer;
  node.newer->older = node.older;
  node.older = node.newer = &node;
}

/// `node` is a little newer than `place`.
void PrefixTree::link_after(Node& place, Node& node) {
  node.older = &place;
  node.newer = place.newer;
  place.newer->older = &node;
  place.newer = &node;
}

/// The whole path, its end first: a page is never older than those behind it.
void PrefixTree::touch(Node* node) noexcept {
  for (; node != nullptr; node = node->parent) {
    unlink(*node);
    link_after(*ring_.older, *node);
  }
}

PrefixTree::Match PrefixTree::match(const PrefixRoot& root, Tokens tokens) const {
  Match match;
  const auto found = roots_.find(root);
  if (found == roots_.end()) return match;
  match.pages.reserve(tokens.size() / page_size_ + 1);
  for (const Children* children = &found->second; !tokens.empty();) {
    const Tokens page = tokens.first(std::min(tokens.size(), page_size_));
    // Of all children, those beside the place of `page` have most in common with it.
    const auto after = children->lower_bound(page);
    Node* best = after != children->end() ? after->get() : nullptr;
    if (after != children->begin()) {
      Node* const before = std::prev(after)->get();
      if (best == nullptr || common(before->tokens, page) > common(best->tokens, page)) best = before;
    }
    const size_t same = best == nullptr ? 0 : common(best->tokens, page);
    if (same == 0) break;
    match.pages.push_back(best->page);
    match.tokens += int(same);
    match.last = best;
    if (same < page_size_) break;
    tokens = tokens.subspan(page_size_);
    children = &best->children;
  }
  if (states_ != nullptr) cut_to_state(match);
  return match;
}

void PrefixTree::cut_to_state(Match& match) const {
  const int page = int(page_size_);
  match.whole = match.tokens / page * page;
  while (match.last != nullptr && (match.last->state < 0 || match.tokens % page != 0)) {
    match.tokens = (match.tokens - 1) / page * page;
    match.pages.pop_back();
    match.last = match.last->parent;
  }
  if (match.last != nullptr) match.state = match.last->state;
}

void PrefixTree::keep_state(const PrefixRoot& root, Tokens tokens, int32_t state) noexcept {
  const auto found = roots_.find(root);
  if (found == roots_.end()) return;
  Node* node = nullptr;
  for (const Children* children = &found->second; tokens.size() >= page_size_; tokens = tokens.subspan(page_size_)) {
    const auto next = children->find(tokens.first(page_size_));
    if (next == children->end()) return;
    node = next->get();
    children = &node->children;
  }
  if (node == nullptr || !tokens.empty() || node->state >= 0) return;
  states_->retain(state);
  node->state = state;
}

void PrefixTree::drop_state(Node& node) noexcept {
  if (node.state >= 0) states_->release(std::exchange(node.state, -1));
}

bool PrefixTree::evict_state() noexcept {
  for (Node* node = ring_.newer; node != &ring_; node = node->newer) {
    if (node->state < 0 || !states_->is_spare(node->state)) continue;
    drop_state(*node);
    return true;
  }
  return false;
}

void PrefixTree::forget_state(int32_t state) noexcept {
  for (Node* node = ring_.newer; node != &ring_; node = node->newer)
    if (node->state == state) return drop_state(*node);
}

void PrefixTree::insert(const PrefixRoot& root, Tokens tokens, PageTable::Sequence sequence,
                        bool first_to_leave) noexcept {
  Node* last = nullptr;
  try {
    roots_.try_emplace(root);
    for (int index = 0; tokens.size() >= page_size_; ++index, tokens = tokens.subspan(page_size_)) {
      const Tokens page = tokens.first(page_size_);
      Children& children = children_of(last, root);
      const int32_t own = table_.pages(sequence)[size_t(index)];
      if (const auto found = children.find(page); found != children.end()) {
        if ((*found)->page != own) table_.exchange(sequence, index, (*found)->page);
        last = found->get();
        continue;
      }
      auto node = std::make_unique<Node>();
      node->parent = last;
      node->tokens.assign(page.begin(), page.end());
      node->page = own;
      Node& added = **children.insert(std::move(node)).first;
      if (last == nullptr) added.root = &roots_.find(root)->first;
      table_.retain(own);
      ++pages_;
      // An older one than its parent, and than any other where it is to leave first.
      link_after(first_to_leave ? ring_ : *ring_.older, added);
      last = &added;
    }
  } catch (const std::bad_alloc&) {  // less is kept
  }
  if (!first_to_leave) touch(last);
  if (const auto empty = roots_.find(root); empty != roots_.end() && empty->second.empty()) roots_.erase(empty);
}

bool PrefixTree::evict() noexcept {
  Node* node = ring_.newer;
  while (node != &ring_ && !can_leave(*node)) node = node->newer;
  if (node == &ring_) return false;
  remove(*node);
  return true;
}

/// Whatever stands behind a page is older, and gone when its turn comes.
void PrefixTree::evict_all() noexcept {
  for (Node* node = ring_.newer; node != &ring_;) {
    Node& old = *std::exchange(node, node->newer);
    if (can_leave(old)) remove(old);
  }
  while (states_ != nullptr && evict_state()) {
  }
}

void PrefixTree::remove(Node& node) noexcept {
  unlink(node);
  drop_state(node);
  table_.release(node.page);
  --pages_;
  if (node.parent != nullptr) {
    Children& siblings = node.parent->children;
    siblings.erase(siblings.find(Tokens(node.tokens)));
  } else {
    const auto root = roots_.find(*node.root);
    root->second.erase(root->second.find(Tokens(node.tokens)));
    if (root->second.empty()) roots_.erase(root);
  }
}

}  // namespace bumblebee::engine
