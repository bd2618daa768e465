// Streaming decode. Where tokens are bytes (token_bytes.h), these are put together; else by difference: the text of a
// short window of ids with and without the newest one. That is exact for every decoder whose output for a token depends
// only on its left neighbours; byte fallback, which looks right, is held back as a whole run. Both give the same
// pieces.
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
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special), table_(tokenizer_.token_table()) {}

std::string StreamDecoder::push(int32_t id) {
  if (id < 0 || id >= tokenizer_.vocab_size()) {
    throw Error(ErrorCode::bad_request, "tokenizer",
                cat("token id: expected 0 to ", tokenizer_.vocab_size() - 1, ", got ", id));
  }
  return table_ != nullptr ? push_bytes(id) : push_window(id);
}

std::string StreamDecoder::push_bytes(int32_t id) {
  const TokenBytes::Token& token = table_->tokens[size_t(id)];
  if (token.kind == TokenBytes::Kind::nothing || (skip_special_ && token.special)) return {};
  if (token.kind == TokenBytes::Kind::fallback_byte) {
    run_ += table_->of(id);
    return {};
  }
  end_run();
  held_ += table_->of(id);
  return take(false);
}

/// A run of byte fallback is text as a whole, or each of its bytes is replaced.
void StreamDecoder::end_run() {
  bool text = true;
  for (size_t at = 0; text && at < run_.size();) {
    bool broken = false;
    at += first_unit(std::string_view(run_).substr(at), broken);
    text = !broken;
  }
  if (text) {
    held_ += run_;
  } else {
    for (size_t i = 0; i < run_.size(); ++i) held_ += kReplacement;
  }
  run_.clear();
}

/// The held bytes as text, but for a final U+FFFD, which may be the beginning of a character, unless `all`.
std::string StreamDecoder::take(bool all) {
  std::string piece;
  size_t at = 0;
  while (at < held_.size()) {
    bool broken = false;
    const size_t length = first_unit(std::string_view(held_).substr(at), broken);
    const std::string_view unit = broken ? kReplacement : std::string_view(held_).substr(at, length);
    if (!all && at + length == held_.size() && unit == kReplacement) break;
    at += length;
    if (stripped_ < table_->strip_count && unit == table_->strip) {
      ++stripped_;
    } else {
      stripped_ = table_->strip_count;
      piece += unit;
    }
  }
  held_.erase(0, at);
  return piece;
}

std::string StreamDecoder::push_window(int32_t id) {
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
  if (table_ != nullptr) {
    end_run();
    std::string piece = take(true);
    stripped_ = 0;
    return piece;
  }
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
