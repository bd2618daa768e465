// An executor without a model: its cache is an array that holds the token written to each cell, and the token it
// chooses is a hash of what a sequence reads back through its page table. A page shared by mistake, copied too late or
// written for somebody else gives another token at once. A state is the tokens that led to it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "engine/prefix_tree.h"
#include "engine/request.h"
#include "exec/executor.h"

namespace bumblebee::engine {

/// Of prompts that share nothing with those of another number.
inline PrefixRoot root_numbered(int number) {
  PrefixRoot root{};
  root.back() = uint8_t(number);
  return root;
}

/// Plays steps on an array instead of a KV store: cell = the token written there, state = all tokens before.
class PlayedStore {
 public:
  PlayedStore(int pages, int page_size, int states = 0)
      : page_size_(page_size), cells_(size_t(pages * page_size), -1), states_(size_t(states)) {}
  void play(const exec::Step& step) {
    for (const PageCopy& c : step.copies) {
      for (int i = 0; i < page_size_; ++i)
        cells_[size_t(c.to * page_size_ + i)] = cells_[size_t(c.from * page_size_ + i)];
    }
    for (const Segment& segment : step.batch.segments) {
      for (int i = 0; i < segment.rows; ++i)
        at(step.batch, segment, segment.past + i) = step.batch.tokens[size_t(segment.first + i)];
    }
    for (const Segment& segment : step.batch.segments) {
      if (segment.state.to < 0) continue;
      std::vector<int32_t> tokens;
      if (segment.state.from >= 0) tokens = states_[size_t(segment.state.from)];
      const auto first = step.batch.tokens.begin() + segment.first;
      tokens.insert(tokens.end(), first, first + segment.rows);
      states_[size_t(segment.state.to)] = std::move(tokens);
    }
  }
  std::vector<int32_t>& state(int32_t state) { return states_[size_t(state)]; }
  void scribble(int32_t page) {
    for (int i = 0; i < page_size_; ++i) cells_[size_t(page * page_size_ + i)] = -9;
  }
  std::vector<int32_t> read(const Batch& batch, const Segment& segment) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < segment.past + segment.rows; ++i) tokens.push_back(at(batch, segment, i));
    return tokens;
  }

 private:
  int32_t& at(const Batch& batch, const Segment& segment, int position) {
    const int32_t page = batch.pages[size_t(segment.first_page + position / page_size_)];
    return cells_[size_t(page * page_size_ + position % page_size_)];
  }
  int page_size_;
  std::vector<int32_t> cells_;
  std::vector<std::vector<int32_t>> states_;
};

class ScriptedExecutor : public exec::Executor {
 public:
  ScriptedExecutor(int pages, int vocab, bool asynchronous = false)
      : pages_(pages), vocab_(vocab), asynchronous_(asynchronous), store_(pages, exec::kPageSize) {}

  /// What comes after these tokens.
  static int32_t next(const std::vector<int32_t>& tokens, int vocab) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (const int32_t token : tokens) hash = (hash ^ uint64_t(uint32_t(token))) * 0x100000001B3u;
    return int32_t((hash >> 20) % uint64_t(vocab));
  }

  exec::Ticket launch(const exec::Step& launched) override {
    check(launched.batch, exec::kPageSize, pages_);
    exec::Step step = launched;
    step.batch.resolve_chosen(results_[last_ % results_.size()].ids);
    store_.play(step);
    Result& result = results_[++last_ % results_.size()];
    result.ids.clear();
    for (const Segment& segment : step.batch.segments) {
      const int32_t row = segment.first + segment.rows - 1;
      for (const int32_t logit_row : step.batch.logit_rows) {
        if (logit_row == row) result.ids.push_back(next(store_.read(step.batch, segment), vocab_));
      }
    }
    result.view = {};
    result.view.ids = result.ids;
    return last_;
  }
  bool asynchronous() const override { return asynchronous_; }
  const exec::StepResult& wait(exec::Ticket ticket) override { return results_[ticket % results_.size()].view; }
  std::shared_ptr<const lora::AdapterSet> open(std::span<const lora::AdapterCache::Part> parts) override {
    if (parts.empty()) return nullptr;
    auto set = std::make_shared<lora::AdapterSet>();
    set->id = lora::AdapterCache::identity(parts);
    return set;
  }
  std::optional<std::shared_ptr<const lora::AdapterSet>> open_now(
      std::span<const lora::AdapterCache::Part> parts) override {
    return open(parts);
  }
  exec::SlotLease slot(const std::shared_ptr<const lora::AdapterSet>&) override { return {}; }
  void release_pages(std::span<const int32_t>) override {}
  int pages() const override { return pages_; }
  exec::MemoryReport memory() const override { return {}; }
  void eagerly(const Batch&, FunctionRef<void(Stream&, KvStore*)>) override { BB_CHECK(false); }

 private:
  struct Result {
    std::vector<int32_t> ids;
    exec::StepResult view;
  };
  int pages_, vocab_;
  bool asynchronous_;
  PlayedStore store_;
  std::array<Result, 2> results_;
  exec::Ticket last_ = 0;
};

/// Tokens that there are where nothing else is said.
inline constexpr int kVocab = 1000;

/// Does what a test says before each step.
class HookedExecutor : public ScriptedExecutor {
 public:
  using Hook = std::function<void(int step, const exec::Step&)>;
  HookedExecutor(int pages, Hook hook, bool asynchronous = false)
      : ScriptedExecutor(pages, kVocab, asynchronous), hook_(std::move(hook)) {}
  exec::Ticket launch(const exec::Step& step) override {
    if (hook_) hook_(++steps_, step);
    return ScriptedExecutor::launch(step);
  }

 private:
  const Hook hook_;
  int steps_ = 0;
};

/// The whole answer to a request whose max_new_tokens ends it, from an executor of kVocab tokens.
inline std::vector<int32_t> continuation(const Request& request) {
  std::vector<int32_t> tokens = request.prompt, made;
  for (int i = 0; i < *request.config.max_new_tokens; ++i) {
    made.push_back(ScriptedExecutor::next(tokens, kVocab));
    tokens.push_back(made.back());
  }
  return made;
}

}  // namespace bumblebee::engine
