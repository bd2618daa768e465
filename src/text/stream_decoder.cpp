// Streaming decode by difference: the text of a short window of ids with and without the newest one. Exact for every
// decoder whose output for a token depends only on its left neighbours; byte fallback, which looks right, is held back
// as a whole run.
#include "text/tokenizer.h"

namespace bumblebee::txt {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
// More ids than this without a whole character are garbage (a character has at most four bytes).
constexpr size_t kMaxWindow = 16;

bool is_byte_token(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token.back() == '>';
}

/// Length of the part that no later token can change: a final U+FFFD may be the beginning of a character.
size_t certain_length(std::string_view text) {
  return text.ends_with(kReplacement) ? text.size() - kReplacement.size() : text.size();
}

}  // namespace

StreamDecoder::StreamDecoder(Tokenizer tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

std::string StreamDecoder::push(int32_t id) {
  if (id < 0 || id >= tokenizer_.vocab_size()) {
    throw Error(ErrorCode::bad_request, "tokenizer",
                cat("token id: expected 0 to ", tokenizer_.vocab_size() - 1, ", got ", id));
  }
  // The whole decode drops these before it looks at neighbours, and so do we.
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  ids_.push_back(id);
  if (tokenizer_.has_byte_fallback() && is_byte_token(tokenizer_.token_of(id).value_or(""))) return {};

  const std::string text = tokenizer_.decode(ids_, skip_special_);
  const size_t certain = certain_length(text);
  std::string piece = certain > given_ ? text.substr(given_, certain - given_) : std::string();
  if (certain == text.size()) {
    shorten(ids_.size() - context_);
  } else if (ids_.size() > kMaxWindow) {
    shorten(kMaxWindow / 2);
  } else {
    given_ = std::max(given_, certain);
  }
  return piece;
}

std::string StreamDecoder::flush() {
  const std::string text = ids_.empty() ? std::string() : tokenizer_.decode(ids_, skip_special_);
  std::string piece = text.size() > given_ ? text.substr(given_) : std::string();
  ids_.clear();
  context_ = 0;
  given_ = 0;
  return piece;
}

void StreamDecoder::shorten(size_t keep) {
  const std::vector<int32_t> kept(ids_.end() - static_cast<std::ptrdiff_t>(keep), ids_.end());
  const std::string text = tokenizer_.decode(kept, skip_special_);
  if (text.empty()) {
    // Nothing to stand on: without visible context the next token would be taken for the first of the text.
    given_ = tokenizer_.decode(ids_, skip_special_).size();
    return;
  }
  ids_ = kept;
  context_ = ids_.size();
  given_ = certain_length(text);
}

}  // namespace bumblebee::txt
