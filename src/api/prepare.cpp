// prepare_data(): the reader of texts with a loaded tokenizer, which is the engine's, to count with.
#include "dataset/prepare.h"

#include <nlohmann/json.hpp>

#include "api/tokenizer_state.h"
#include "base/json.h"
#include "bumblebee/train.h"
#include "dataset/row_encoder.h"

namespace bumblebee {

PrepareResult prepare_data(const std::vector<PostSource>& sources, const std::filesystem::path& directory,
                           const PrepareOptions& options, const Tokenizer* tokenizer) {
  if (!tokenizer || !tokenizer->has_chat_template()) return dataset::prepare(sources, directory, options, {});
  const txt::ChatTemplate chat = tokenizer->state()->chat_template();
  const TrainData data;
  const dataset::RowEncoder encoder(data, tokenizer->state()->tokenizer, &chat);
  return dataset::prepare(sources, directory, options, [&encoder](const std::string& row) {
    const OrderedJson json = parse_ordered_json(row, "row");
    return int64_t(encoder.encode(json, dataset::DataFormat::chat, "row").tokens.size());
  });
}

}  // namespace bumblebee
