// The automaton's state is the longest suffix of the text that begins some stop string: exactly what must be held back.
#include "text/stop_strings.h"

#include <algorithm>
#include <cstddef>
#include <deque>

namespace bumblebee::txt {

int StopStrings::child(int node, uint8_t byte) const {
  for (const auto& [b, to] : nodes_[size_t(node)].next) {
    if (b == byte) return to;
  }
  return -1;
}

StopStrings::StopStrings(const std::vector<std::string>& stops) : nodes_(1) {
  for (const std::string& stop : stops) {
    int node = 0;
    for (char c : stop) {
      int to = child(node, uint8_t(c));
      if (to < 0) {
        to = int(nodes_.size());
        const int depth = nodes_[size_t(node)].depth + 1;
        nodes_.push_back({.next = {}, .fail = 0, .depth = depth, .match = 0});
        nodes_[size_t(node)].next.emplace_back(uint8_t(c), to);
      }
      node = to;
    }
    nodes_[size_t(node)].match = int(stop.size());
  }
  std::deque<int> queue = {0};
  while (!queue.empty()) {
    const int node = queue.front();
    queue.pop_front();
    for (const auto& [byte, to] : nodes_[size_t(node)].next) {
      queue.push_back(to);
      if (node == 0) continue;
      int fail = nodes_[size_t(node)].fail, target = child(fail, byte);
      while (target < 0 && fail != 0) target = child(fail = nodes_[size_t(fail)].fail, byte);
      Node& node_to = nodes_[size_t(to)];
      node_to.fail = std::max(target, 0);
      node_to.match = std::max(node_to.match, nodes_[size_t(node_to.fail)].match);
    }
  }
}

std::string StopStrings::release(size_t size) {
  std::string text;
  size_t passed = 0;
  for (size_t i = 0; i <= size; ++i) {
    for (; passed < passed_.size() && passed_[passed].first == i; ++passed) text += passed_[passed].second;
    if (i < size && of_[i] == Of::text) text += held_[i];
  }
  held_.erase(0, size);
  of_.erase(of_.begin(), of_.begin() + ptrdiff_t(size));
  passed_.erase(passed_.begin(), passed_.begin() + ptrdiff_t(passed));
  for (auto& [before, piece] : passed_) before -= size;
  return text;
}

std::string StopStrings::pass(std::string_view piece) {
  if (matched_) return {};
  if (held_.empty()) return std::string(piece);
  passed_.emplace_back(held_.size(), piece);
  return {};
}

std::string StopStrings::push(std::string_view piece, Of of) {
  if (matched_) return {};
  if (nodes_.size() == 1) return of == Of::text ? std::string(piece) : std::string();
  held_.append(piece);
  of_.resize(held_.size(), of);
  for (size_t i = held_.size() - piece.size(); i < held_.size(); ++i) {
    int to = child(state_, uint8_t(held_[i]));
    while (to < 0 && state_ != 0) {
      state_ = nodes_[size_t(state_)].fail;
      to = child(state_, uint8_t(held_[i]));
    }
    state_ = std::max(to, 0);
    const int length = nodes_[size_t(state_)].match;
    const auto end = of_.begin() + ptrdiff_t(i + 1);
    if (length > 0 && !std::all_of(end - length, end, [](Of each) { return each == Of::header; })) {
      matched_ = true;
      found_ = held_.substr(i + 1 - size_t(length), size_t(length));
      std::string certain = release(i + 1 - size_t(length));
      held_.clear();
      passed_.clear();
      return certain;
    }
  }
  return release(held_.size() - size_t(nodes_[size_t(state_)].depth));
}

std::string StopStrings::flush() {
  state_ = 0;
  return release(held_.size());
}

}  // namespace bumblebee::txt
