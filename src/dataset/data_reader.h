// Reads the data formats of mlx_lm.lora (completions, chat, tools, text) and tokenizes them. Every broken row is an
// error with file and line; what is cut or left out is counted.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "bumblebee/train.h"
#include "dataset/dataset.h"
#include "dataset/row_encoder.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace bumblebee::dataset {

struct ReadOptions {
  int max_seq_length = 2048;  // tokens of a row, target of the last input included; longer ones are truncated
  bool train = true;          // an empty or missing training split is an error
  bool test = false;          // the same for the test split; without it, the test split is not read
  double now = -1;            // RenderRequest::now
};

/// The splits of `data`. `chat` may be null when the tokenizer has no template: only text rows can be read then.
/// Throws Error `bad_file` for what cannot be read (naming file and line), `bad_config` for data that no format fits
/// and for a mask over text rows, `unsupported` for a template that is missing.
Splits read_data(const TrainData& data, const txt::Tokenizer& tokenizer, const txt::ChatTemplate* chat,
                 const ReadOptions& options);

/// Reads a split ("train", "valid", "test") once more, as text; `line` as in DataRow. False from `each` ends it.
void for_learned_texts(const TrainData& data, std::string_view split, const RowEncoder& encoder,
                       const std::function<bool(LearnedText text, int64_t line)>& each);

}  // namespace bumblebee::dataset
