// The two ways of StreamDecoder beside each other: from a table of tokens' bytes, and from the text of a window.
#pragma once

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"

namespace bumblebee::testing {

/// The same tokenizer with last steps in its decoder that find nothing to do: its text is the same, but it is not bytes
/// put together.
inline Json without_table(Json file) {
  Json steps =
      file.at("decoder").value("type", "") == "Sequence" ? file["decoder"]["decoders"] : Json::array({file["decoder"]});
  steps.push_back({{"type", "Fuse"}});
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "\x01never\x02"}}}, {"content", ""}});
  file["decoder"] = {{"type", "Sequence"}, {"decoders", steps}};
  return file;
}

/// Joined pieces are the text; and at every prefix they are the text so far but for a final U+FFFD and a run of byte
/// fallback, which may still change.
inline void expect_whole_text(const txt::Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  txt::StreamDecoder stream(tokenizer, skip);
  std::string joined;
  std::vector<int32_t> so_far;
  for (const int32_t id : ids) {
    joined += stream.push(id);
    const txt::TokenBytes::Token& token = tokenizer.token_table()->tokens[size_t(id)];
    if (token.kind == txt::TokenBytes::Kind::nothing || (skip && token.special)) continue;
    so_far.push_back(id);
    if (token.kind == txt::TokenBytes::Kind::fallback_byte) continue;
    std::string want = tokenizer.decode(so_far, skip);
    if (want.ends_with("\xEF\xBF\xBD")) want.resize(want.size() - 3);
    ASSERT_EQ(joined, want) << "after " << so_far.size() << " ids, skip " << skip;
  }
  ASSERT_EQ(joined + stream.flush(), tokenizer.decode(ids, skip)) << "skip " << skip;
}

/// The pieces of both are the same one by one, and joined they are the text. For sequences with a whole character in
/// every few ids: the window forgets its left end after sixteen without.
inline void expect_same_pieces(const txt::Tokenizer& with_table, const txt::Tokenizer& with_window,
                               const std::vector<int32_t>& ids, bool skip) {
  txt::StreamDecoder table(with_table, skip), window(with_window, skip);
  std::string joined;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string piece = table.push(ids[i]);
    ASSERT_EQ(piece, window.push(ids[i])) << "id " << ids[i] << " at " << i << ", skip " << skip;
    joined += piece;
  }
  const std::string rest = table.flush();
  ASSERT_EQ(rest, window.flush()) << "at the end, skip " << skip;
  ASSERT_EQ(joined + rest, with_table.decode(ids, skip)) << "skip " << skip;
}

}  // namespace bumblebee::testing
