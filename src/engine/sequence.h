// One request as the scheduler sees it: its tokens, which stand here and nowhere else, and how far they are computed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/page_table.h"
#include "lora/adapter_cache.h"

namespace bumblebee::engine {

using RequestId = uint64_t;

struct Sequence {
  RequestId id = 0;
  std::vector<int32_t> tokens;  // the prompt, and what was generated after it
  int prompt = 0;               // how many of them are the prompt
  int max_new = 0;
  int alternatives = 1;  // most that are tried at once for the next token

  /// What its keys and values depend on beside the tokens: pages may be shared by sequences of one identity only.
  std::shared_ptr<const lora::AdapterSet> adapters;  // null: the base
  int32_t slot = -1;                                 // how a batch names them, from activation on

  // The scheduler's own.
  int computed = 0;  // tokens whose keys and values are cached, or are being computed
  int cached = 0;    // of these, what others had computed
  int reserved = 0;  // pages
  PageTable::Sequence pages = -1;
  std::vector<int32_t> proposed;              // alternatives for the next token, to be computed
  std::vector<PageTable::Sequence> branches;  // of the step being computed, one for each

  int length() const { return int(tokens.size()); }
  std::span<const int32_t> output() const { return std::span(tokens).subspan(size_t(prompt)); }
};

}  // namespace bumblebee::engine
