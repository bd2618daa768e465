// The Rust library does the work (src/rust/src/pattern.rs).
#include "lora/pattern.h"

#include "base/error.h"
#include "io/quote.h"
#include "rust/bridge.h"
#include "rust/pattern.h"

namespace bumblebee::lora {

Pattern::Pattern(std::string_view text, std::string_view where) {
  BbPattern* raw = nullptr;
  rust::Bytes error;
  const BbStatus status = bb_pattern_new(rust::view(text), &raw, &cost_, error.out());
  if (status != BB_OK) rust::check(status, error, cat(where, ", pattern ", in_quotes(text)));
  pattern_.reset(raw, [](const BbPattern* pattern) { bb_pattern_free(const_cast<BbPattern*>(pattern)); });
}

bool Pattern::matches(std::string_view name) const {
  int matches = 0;
  rust::Bytes error;
  const BbStatus status = bb_pattern_matches(pattern_.get(), rust::view(name), &matches, error.out());
  if (status != BB_OK) rust::check(status, error, cat("module ", in_quotes(name)));
  return matches != 0;
}

}  // namespace bumblebee::lora
