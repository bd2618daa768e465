// One request as the scheduler sees it: its tokens, which stand here and nowhere else, and how far they are computed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/page_table.h"
#include "engine/prefix_tree.h"
#include "lora/adapter_cache.h"

namespace bumblebee::engine {

using RequestId = uint64_t;

struct Sequence {
  RequestId id = 0;
  std::vector<int32_t> tokens;  // the prompt, and what was generated after it
  int prompt = 0;               // how many of them are the prompt
  int max_new = 0;
  int alternatives = 1;  // most that are tried at once for the next token; more than one is never preempted
  int priority = 0;      // lower is served first
  std::string key;       // whose it is

  /// What its keys and values depend on beside the tokens: pages may be shared by sequences of one root only.
  PrefixRoot root{};
  bool cache = true;
  std::shared_ptr<const lora::AdapterSet> adapters;  // while it is active; null: the base
  int32_t slot = -1;                                 // how a batch names them, the same

  // The scheduler's own.
  int computed = 0;         // tokens whose keys and values are cached, or are being computed
  int in_flight = 0;        // of these, by steps that are not done
  int cached = 0;           // of the prompt, what others had computed and was of use
  bool stretched = false;   // Segment::stretched, of what is cached; its root is another one then
  int32_t state = -1;       // after them, of recurrent layers; -1 before the first
  int reserved = 0;         // pages that it may count on, from its activation on
  uint64_t activation = 0;  // its place among all activations, of which the first counts; 0: it was never active
  uint64_t turn = 0;        // shares of steps that its prompt had
  PageTable::Sequence pages = -1;
  std::vector<int32_t> proposed;              // alternatives for the next token, to be computed
  std::vector<PageTable::Sequence> branches;  // of the step being computed, one for each
  std::vector<int32_t> branch_states;         // the same
  std::vector<int> stops;                     // of its prompt, where others want the state
  struct {
    RequestId owner = 0;
    int until = 0;
  } awaits;                 // whose pages it waits for, and how many tokens the owner must have computed
  uint64_t refused_at = 0;  // state of the scheduler in which it did not fit

  int length() const { return int(tokens.size()); }
  std::span<const int32_t> output() const { return std::span(tokens).subspan(size_t(prompt)); }
  /// Tokens whose keys and values are cached.
  int settled() const { return computed - in_flight; }
  /// One token of the answer is all there is to compute, or is being computed.
  bool decodes() const { return length() > prompt && length() - settled() == 1; }
};

}  // namespace bumblebee::engine
