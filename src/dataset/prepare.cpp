// Reads, filters, shuffles by counters, splits, writes.
#include "dataset/prepare.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_map>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json.h"
#include "base/output_paths.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "dataset/post_reader.h"
#include "dataset/shuffle.h"

namespace bumblebee {

const char* to_string(PostFormat format) {
  switch (format) {
    case PostFormat::automatic: return "auto";
    case PostFormat::lines: return "lines";
    case PostFormat::paragraphs: return "paragraphs";
    case PostFormat::json: return "json";
    case PostFormat::jsonl: return "jsonl";
    case PostFormat::csv: return "csv";
    case PostFormat::twitter: return "twitter";
    case PostFormat::bluesky: return "bluesky";
  }
  return "?";
}

}  // namespace bumblebee

namespace bumblebee::dataset {
namespace {

namespace fs = std::filesystem;

/// Copies of a text at most: more would be another kind of training.
constexpr double kMostWeight = 1000;

constexpr const char* kSplits[] = {"train.jsonl", "valid.jsonl", "test.jsonl"};

void check(const std::vector<PostSource>& sources, const PrepareOptions& options) {
  const auto refuse = [](std::string_view where, const std::string& what) {
    throw Error(ErrorCode::bad_request, where, what);
  };
  if (!(options.split_ratio > 0 && options.split_ratio <= 1))
    refuse("split_ratio", cat("expected a share above 0 and up to 1, got ", options.split_ratio));
  if (!(options.test_ratio >= 0 && options.split_ratio + options.test_ratio <= 1))
    refuse("test_ratio", cat("expected a share from 0 to 1 - split_ratio, got ", options.test_ratio));
  if (options.min_length < 0) refuse("min_length", cat("expected 0 or more, got ", options.min_length));
  if (options.max_length < 0 || (options.max_length > 0 && options.max_length < options.min_length))
    refuse("max_length", cat("expected 0 or at least min_length = ", options.min_length, ", got ", options.max_length));
  if (options.prompts.empty()) refuse("prompts", "expected one at least, got none");
  for (const std::string& prompt : options.prompts) {
    if (prompt.find_first_not_of(" \t\r\n") == std::string::npos)
      refuse("prompt", "expected a text: an empty turn cannot be learned from");
    if (!valid_utf8(prompt)) refuse("prompt", "expected UTF-8");
  }
  if (!valid_utf8(options.system_prompt)) refuse("system_prompt", "expected UTF-8");
  for (const PostSource& source : sources) {
    if (!(source.weight > 0 && source.weight <= kMostWeight))
      refuse(source.path.string(),
             cat("weight: expected a number above 0 and up to ", kMostWeight, ", got ", source.weight));
  }
}

/// What is drawn, so that no two draws share their numbers.
enum class DrawOf : uint64_t { prompts = 0x70726F6D7074, copies = 0x636F70696573 };

double draw(const PrepareOptions& options, DrawOf what, size_t index) {
  return uniform01(options.seed ^ uint64_t(what), index);
}

struct Kept {
  std::string text;
  double weight = 1;
};

/// The text with runs of white space as one space: what makes two texts the same.
std::string identity(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool space = c == ' ' || c == '\n' || c == '\t' || c == '\r';
    if (!space) out += c;
    if (space && !out.ends_with(' ')) out += ' ';
  }
  return out;
}

LengthStatistics statistics(std::vector<int64_t> lengths) {
  LengthStatistics out;
  out.count = int64_t(lengths.size());
  if (lengths.empty()) return out;
  std::sort(lengths.begin(), lengths.end());
  const auto rank = [&lengths](double share) { return lengths[size_t(std::ceil(share * double(lengths.size()))) - 1]; };
  for (const int64_t length : lengths) out.total += length;
  out.shortest = lengths.front();
  out.median = rank(0.5);
  out.percentile95 = rank(0.95);
  out.longest = lengths.back();
  out.mean = double(out.total) / double(out.count);
  return out;
}

std::string row_of(const std::string& text, const PrepareOptions& options, size_t number) {
  const size_t prompts = options.prompts.size();
  const size_t chosen = std::min(prompts - 1, size_t(draw(options, DrawOf::prompts, number) * double(prompts)));
  OrderedJson messages = OrderedJson::array();
  if (!options.system_prompt.empty()) messages.push_back({{"role", "system"}, {"content", options.system_prompt}});
  messages.push_back({{"role", "user"}, {"content", options.prompts[chosen]}});
  messages.push_back({{"role", "assistant"}, {"content", text}});
  return OrderedJson{{"messages", std::move(messages)}}.dump();
}

std::vector<Kept> collect(const std::vector<PostSource>& sources, const PrepareOptions& options,
                          PrepareResult& result) {
  std::vector<Kept> kept;
  std::vector<int64_t> lengths;
  std::unordered_map<std::string, size_t> seen;
  for (const PostSource& source : sources) {
    PostFile file = read_posts(source.path, options);
    result.sources.push_back({source.path.string(), file.format, int64_t(file.posts.size()), source.weight});
    result.texts += int64_t(file.posts.size());
    if (!file.note.empty()) result.notes.push_back(std::move(file.note));
    for (Post& post : file.posts) {
      const int64_t length = count_characters(post.text);
      if (post.repost) {
        ++result.reposts;
      } else if (post.reply && !options.replies) {
        ++result.replies;
      } else if (length == 0 || length < options.min_length) {
        ++result.too_short;
      } else if (options.max_length > 0 && length > options.max_length) {
        ++result.too_long;
      } else if (const auto [at, fresh] = seen.emplace(identity(post.text), kept.size()); !fresh) {
        ++result.duplicates;
        kept[at->second].weight = std::max(kept[at->second].weight, source.weight);
      } else {
        lengths.push_back(length);
        kept.push_back({std::move(post.text), source.weight});
      }
    }
  }
  result.characters = statistics(std::move(lengths));
  return kept;
}

/// The texts to learn, each as often as its weight says: whole copies, and one more by the chance that is left.
std::vector<std::string> weighted(const std::vector<Kept>& texts, const PrepareOptions& options, int64_t& used) {
  std::vector<std::string> out;
  bool mixed = false;
  for (size_t i = 0; i < texts.size(); ++i) {
    mixed = mixed || texts[i].weight != 1;
    const double whole = std::floor(texts[i].weight);
    const bool more = draw(options, DrawOf::copies, i) < texts[i].weight - whole;
    const auto copies = size_t(whole) + (more ? 1 : 0);
    used += copies > 0 ? 1 : 0;
    out.insert(out.end(), copies, texts[i].text);
  }
  if (mixed) shuffle(out, options.seed, 1, ShuffleOf::posts);  // copies of one text apart from each other
  return out;
}

void split(int64_t count, const PrepareOptions& options, PrepareResult& result) {
  result.test = std::llround(double(count) * options.test_ratio);
  result.valid = std::llround(double(count) * (1 - options.split_ratio - options.test_ratio));
  const bool validates = 1 - options.split_ratio - options.test_ratio > 1e-9;
  if (validates && count >= 2) result.valid = std::max<int64_t>(result.valid, 1);
  result.valid = std::min(result.valid, count - 1);  // something must be left to learn from
  result.test = std::min(result.test, count - 1 - result.valid);
  result.train = count - result.valid - result.test;
}

void write(const fs::path& directory, const std::vector<std::string>& rows, const PrepareResult& result) {
  std::error_code failure;
  fs::create_directories(directory, failure);
  if (failure) throw Error(ErrorCode::bad_file, directory.string(), cat("cannot create: ", failure.message()));
  size_t next = 0;
  const auto file = [&](const char* name, int64_t count) {
    std::string text;
    for (int64_t i = 0; i < count; ++i) text += rows[next++] + "\n";
    if (count > 0) {
      write_text_file(directory / name, text);
    } else {
      fs::remove(directory / name, failure);  // of an earlier run: its texts could be in another split now
    }
  };
  file(kSplits[0], result.train);
  file(kSplits[1], result.valid);
  file(kSplits[2], result.test);
  std::set<std::string> written;
  for (const char* name : kSplits)
    if (fs::exists(directory / name)) written.insert(name);
  write_manifest(directory, written);
}

}  // namespace

PrepareResult prepare(const std::vector<PostSource>& sources, const fs::path& directory, const PrepareOptions& options,
                      const CountTokens& count) {
  check(sources, options);
  std::vector<fs::path> inputs;
  for (const PostSource& source : sources) inputs.push_back(source.path);
  const std::set<std::string> ours = written_files(directory).ours;
  for (const char* name : kSplits) {
    require_apart(directory / name, inputs);
    if (!fs::exists(directory / name)) continue;
    if (!options.overwrite)
      throw Error(ErrorCode::bad_file, (directory / name).string(),
                  "exists already, and overwriting was not asked for");
    if (!ours.contains(name))
      throw Error(ErrorCode::bad_file, (directory / name).string(),
                  "is not as an earlier run wrote it and would be replaced: move it away");
  }
  PrepareResult result;
  std::vector<Kept> kept = collect(sources, options, result);
  if (kept.empty()) {
    throw Error(ErrorCode::bad_file, sources.empty() ? "prepare" : sources.front().path.string(),
                cat("no valid content: ", result.texts, " texts found, ", result.too_short, " too short, ",
                    result.too_long, " too long"));
  }
  shuffle(kept, options.seed, 0, ShuffleOf::posts);
  split(int64_t(kept.size()), options, result);
  const auto learned = size_t(result.train);
  std::vector<std::string> rows =
      weighted({kept.begin(), kept.begin() + int64_t(learned)}, options, result.train_texts);
  if (rows.empty())
    throw Error(ErrorCode::bad_request, "weight", "expected a text to learn from: the weights leave out all of them");
  result.train = int64_t(rows.size());
  for (size_t i = learned; i < kept.size(); ++i) rows.push_back(std::move(kept[i].text));
  std::vector<int64_t> tokens;
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = row_of(rows[i], options, i);
    if (count) tokens.push_back(count(rows[i]));
  }
  result.tokens = statistics(std::move(tokens));
  write(directory, rows, result);
  return result;
}

}  // namespace bumblebee::dataset
