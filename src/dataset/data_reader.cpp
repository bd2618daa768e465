// Lines of JSONL files, or rows in memory, through the encoder; truncation and what it leaves.
#include "dataset/data_reader.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/mapped_file.h"
#include "dataset/row_encoder.h"

namespace bumblebee::dataset {
namespace {

namespace fs = std::filesystem;

/// The longest line of a data file.
constexpr JsonLimits kRowLimits = {.bytes = size_t{64} << 20, .depth = 64};

class SplitReader {
 public:
  SplitReader(const RowEncoder& encoder, int max_seq_length, std::string name)
      : encoder_(encoder), max_seq_length_(max_seq_length) {
    out_.name = std::move(name);
  }

  void add(std::string_view text, int64_t line) {
    const std::string where = cat(out_.name, ":", line);
    JsonLimits limits = kRowLimits;
    bool repeated = false;
    limits.repeated = &repeated;
    const OrderedJson row = parse_ordered_json(text, where, limits);
    out_.repeated += repeated ? 1 : 0;
    if (out_.format == DataFormat::none) out_.format = encoder_.detect(row, where);
    DataRow encoded = encoder_.encode(row, out_.format, where);
    encoded.line = line;
    out_.began_twice += encoded.began_twice ? 1 : 0;
    out_.longest = std::max(out_.longest, int(encoded.tokens.size()));
    if (int64_t(encoded.tokens.size()) > max_seq_length_) {
      encoded.tokens.resize(size_t(max_seq_length_));
      encoded.tokens.shrink_to_fit();
      ++out_.truncated;
    }
    if (encoded.scored() > 0) {
      out_.rows.push_back(std::move(encoded));
    } else {
      ++(encoded.empty || encoded.tokens.size() < 2 ? out_.blank : out_.unscored);
    }
  }

  Dataset finish() {
    if (out_.rows.empty() && out_.unscored + out_.blank > 0) {
      const std::string empty = out_.blank > 0 ? cat(out_.blank, " rows are empty") : "";
      const std::string late = out_.unscored > 0
                                   ? cat(out_.unscored, " rows are longer than max_seq_length = ", max_seq_length_,
                                         " before their last message begins")
                                   : "";
      throw Error(ErrorCode::bad_config, out_.name,
                  cat("nothing to learn: ", empty, empty.empty() || late.empty() ? "" : ", ", late));
    }
    return std::move(out_);
  }

 private:
  const RowEncoder& encoder_;
  int64_t max_seq_length_;
  Dataset out_;
};

/// Calls each(row, line or index from 1) until it returns false. A file that is missing has no rows.
template <class Each>
void for_rows(const TrainData& data, const std::vector<std::string>& rows, std::string_view split, Each&& each) {
  if (!rows.empty() || data.directory.empty()) {
    for (size_t i = 0; i < rows.size(); ++i)
      if (!each(rows[i], int64_t(i) + 1)) return;
    return;
  }
  const fs::path path = data.directory / cat(split, ".jsonl");
  if (!fs::exists(path)) return;
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  std::string_view rest(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  if (rest.starts_with("\xEF\xBB\xBF")) rest.remove_prefix(3);
  if (const size_t first = rest.find_first_not_of(" \t\r\n"); first != std::string_view::npos && rest[first] == '[')
    throw Error(ErrorCode::bad_file, path.string(),
                cat("expected a JSON object on each line, got a JSON array: `jq -c '.[]' ", path.string(),
                    "` prints its elements as lines"));
  for (int64_t line = 1; !rest.empty(); ++line) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view text = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!blank(text) && !each(text, line)) return;
  }
}

Dataset read_split(const TrainData& data, const std::vector<std::string>& rows, const char* name,
                   const RowEncoder& encoder, int max_seq_length) {
  const bool of_file = rows.empty() && !data.directory.empty();
  SplitReader reader(encoder, max_seq_length,
                     of_file ? (data.directory / cat(name, ".jsonl")).string() : std::string(name));
  for_rows(data, rows, name, [&reader](std::string_view text, int64_t line) {
    reader.add(text, line);
    return true;
  });
  return reader.finish();
}

void require(const Dataset& split, const TrainData& data, const char* name) {
  if (!split.empty()) return;
  if (data.directory.empty()) throw Error(ErrorCode::bad_file, name, "expected rows, got none");
  throw Error(ErrorCode::bad_file, split.name, "expected a file with a JSON object on each line, found no rows");
}

}  // namespace

Splits read_data(const TrainData& data, const txt::Tokenizer& tokenizer, const txt::ChatTemplate* chat,
                 const ReadOptions& options) {
  if (options.max_seq_length < 2) {
    throw Error(ErrorCode::bad_config, "max_seq_length",
                cat("expected at least 2 tokens, got ", options.max_seq_length));
  }
  const bool in_memory = !data.train.empty() || !data.valid.empty() || !data.test.empty();
  if (data.directory.empty() && !in_memory) throw Error(ErrorCode::bad_config, "data", "no directory of data is given");
  if (!data.directory.empty() && !fs::is_directory(data.directory)) {
    throw Error(ErrorCode::bad_file, data.directory.string(),
                "expected a directory with train.jsonl, valid.jsonl or test.jsonl (data sets are not downloaded)");
  }
  const RowEncoder encoder(data, tokenizer, chat, options.now);
  Splits out;
  if (options.train) {
    out.train = read_split(data, data.train, "train", encoder, options.max_seq_length);
    out.valid = read_split(data, data.valid, "valid", encoder, options.max_seq_length);
    require(out.train, data, "train");
  }
  if (options.test) {
    out.test = read_split(data, data.test, "test", encoder, options.max_seq_length);
    require(out.test, data, "test");
  }
  return out;
}

void for_learned_texts(const TrainData& data, std::string_view split, const RowEncoder& encoder,
                       const std::function<bool(LearnedText text, int64_t line)>& each) {
  const std::vector<std::string>& rows = split == "train" ? data.train : split == "valid" ? data.valid : data.test;
  DataFormat format = DataFormat::none;
  for_rows(data, rows, split, [&](std::string_view text, int64_t line) {
    const OrderedJson row = parse_ordered_json(text, cat(split, ":", line), kRowLimits);
    if (format == DataFormat::none) format = encoder.detect(row, split);
    return each(encoder.learned(row, format), line);
  });
}

}  // namespace bumblebee::dataset
