// One row of a data file to ids, with what of it is learned. Formats are mlx-lm's; a mask ends where the prompt ends
// that generation would see.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "bumblebee/train.h"
#include "dataset/dataset.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace bumblebee::dataset {

/// Nothing but spaces, tabs and line ends.
inline bool blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

class RowEncoder {
 public:
  /// All must outlive the encoder; `chat` may be null.
  RowEncoder(const TrainData& data, const txt::Tokenizer& tokenizer, const txt::ChatTemplate* chat, double now = -1)
      : data_(data), tokenizer_(tokenizer), chat_(chat), now_(now) {}

  /// Which format the first row of a file has. Throws Error(bad_config) when it has none.
  DataFormat detect(const OrderedJson& row, std::string_view where) const;
  /// Throws Error(bad_file) for a row that breaks its format, Error(unsupported) when a template is needed and missing,
  /// Error(bad_config) for a mask over text. The row is not truncated.
  DataRow encode(const OrderedJson& row, DataFormat format, std::string_view where) const;
  /// What a row that encode() takes teaches to write, and what precedes it.
  LearnedText learned(const OrderedJson& row, DataFormat format) const;

 private:
  DataRow encode_text(const OrderedJson& row, std::string_view where) const;
  DataRow encode_chat(const OrderedJson& messages, const OrderedJson* tools, std::string_view where) const;
  std::vector<int32_t> render(const OrderedJson& messages, const std::string& tools, std::string_view kwargs,
                              bool generation_prompt, std::string_view where) const;
  int32_t masked(const OrderedJson& messages, const std::string& tools, const std::vector<int32_t>& tokens,
                 std::string_view where) const;
  /// Where the content of the last message begins, for templates that render what precedes it in another way without
  /// it: where the tokens depart from those of another content.
  int32_t content_begin(const OrderedJson& messages, const std::string& tools, const std::vector<int32_t>& tokens,
                        std::string_view where) const;

  const TrainData& data_;
  const txt::Tokenizer& tokenizer_;
  const txt::ChatTemplate* chat_;
  const double now_;
};

}  // namespace bumblebee::dataset
