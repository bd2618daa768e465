// One small reader per format, over the mapped bytes.
#include "dataset/post_reader.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/ascii.h"
#include "base/error.h"
#include "base/foreign_file.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/utf8.h"
#include "dataset/archive_reader.h"
#include "dataset/csv.h"

namespace bumblebee::dataset {
namespace {

constexpr JsonLimits kLimits = {.bytes = size_t{1} << 30, .depth = 64};

std::string_view without_byte_order_mark(std::string_view bytes) {
  if (bytes.starts_with("\xEF\xBB\xBF")) bytes.remove_prefix(3);
  return bytes;
}

std::string with_plain_line_ends(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    out += text[i];
  }
  return out;
}

class Collector {
 public:
  Collector(std::string_view where, const PrepareOptions& options) : where_(where), options_(options) {}

  std::string at(int64_t line) const { return cat(where_, ":", line); }

  void add(std::string_view text, int64_t line) {
    if (!valid_utf8(text)) throw Error(ErrorCode::bad_file, at(line), "the text is not UTF-8");
    posts.push_back({with_plain_line_ends(trimmed(text)), line});
  }

  void add(std::vector<Post> archived) {
    for (Post& post : archived) {
      add(post.text, post.line);
      post.text = std::move(posts.back().text);
      posts.back() = std::move(post);
    }
  }

  void add_value(const Json& value, int64_t line) {
    if (value.is_string()) return add(value.get_ref<const std::string&>(), line);
    const std::string& key = options_.column.empty() ? kColumn : options_.column;
    if (!value.is_object()) {
      throw Error(ErrorCode::bad_file, at(line),
                  cat("expected a string or an object with '", key, "', got ", brief(value)));
    }
    const auto found = value.find(key);
    if (found == value.end() || !found->is_string()) {
      throw Error(
          ErrorCode::bad_file, at(line),
          cat("expected text under the key '", key, "', got ", found == value.end() ? brief(value) : brief(*found)));
    }
    add(found->get_ref<const std::string&>(), line);
  }

  std::vector<Post> posts;
  inline static const std::string kColumn = "text";

 private:
  std::string_view where_;
  const PrepareOptions& options_;
};

/// Calls each(line without its end, number from 1).
template <class Each>
void for_lines(std::string_view bytes, Each&& each) {
  for (int64_t number = 1; !bytes.empty(); ++number) {
    const size_t end = std::min(bytes.find('\n'), bytes.size());
    std::string_view line = bytes.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    each(line, number);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
  }
}

void read_lines(std::string_view bytes, Collector& out) {
  for_lines(bytes, [&out](std::string_view line, int64_t number) {
    if (!trimmed(line).empty()) out.add(line, number);
  });
}

void read_paragraphs(std::string_view bytes, const std::string& separator, Collector& out) {
  const char* begin = nullptr;
  const char* end = nullptr;
  int64_t first = 0;
  const auto flush = [&] {
    if (begin) out.add({begin, size_t(end - begin)}, first);
    begin = nullptr;
  };
  for_lines(bytes, [&](std::string_view line, int64_t number) {
    const bool blank = trimmed(line).empty();
    if (separator.empty() ? blank : line == separator) return flush();
    if (!begin && blank) return;
    if (!begin) begin = line.data(), first = number;
    end = line.data() + line.size();
  });
  flush();
}

void read_json(std::string_view bytes, std::string_view where, Collector& out) {
  const Json list = parse_json(bytes, where, kLimits);
  if (!list.is_array())
    throw Error(ErrorCode::bad_file, where, cat("expected a JSON array of texts or objects, got ", brief(list)));
  for (size_t i = 0; i < list.size(); ++i) out.add_value(list[i], int64_t(i) + 1);
}

void read_jsonl(std::string_view bytes, Collector& out) {
  for_lines(bytes, [&out](std::string_view line, int64_t number) {
    if (!trimmed(line).empty()) out.add_value(parse_json(line, out.at(number), kLimits), number);
  });
}

void read_csv(std::string_view bytes, std::string_view where, const std::string& column, Collector& out) {
  const std::vector<CsvRecord> records = parse_csv(bytes, where);
  if (records.empty()) return;
  const std::vector<std::string>& names = records[0].fields;
  const std::string& wanted = column.empty() ? Collector::kColumn : column;
  const auto found = std::find(names.begin(), names.end(), wanted);
  auto index = size_t(found - names.begin());
  if (found == names.end()) {
    if (!column.empty() || names.size() > 1) {
      std::string list;
      for (const std::string& name : names) list += cat(list.empty() ? "'" : ", '", name, "'");
      throw Error(ErrorCode::bad_file, out.at(records[0].line),
                  cat("no column '", wanted, "'; there are ", list.substr(0, 300)));
    }
    index = 0;
  }
  for (size_t i = 1; i < records.size(); ++i) out.add(records[i].fields[index], records[i].line);
}

}  // namespace

PostFormat format_of(const std::filesystem::path& path, std::string_view bytes, const PrepareOptions& options) {
  if (options.format != PostFormat::automatic) return options.format;
  bytes = without_byte_order_mark(bytes);
  const std::string ending = lower(path.extension().string());
  if (ending == ".car") return PostFormat::bluesky;
  if (is_twitter(bytes)) return PostFormat::twitter;
  if (ending == ".js") {
    throw Error(ErrorCode::bad_file, path.string(),
                "expected a file of Twitter's archive, which begins with 'window.YTD.'; name the format of another");
  }
  if (ending == ".json") return is_bluesky_json(bytes) ? PostFormat::bluesky : PostFormat::json;
  if (ending == ".jsonl" || ending == ".ndjson") return PostFormat::jsonl;
  if (ending == ".csv") return PostFormat::csv;
  if (!options.separator.empty()) return PostFormat::paragraphs;
  bool text = false, gap = false, between = false;
  for_lines(bytes, [&](std::string_view line, int64_t) {
    const bool blank = trimmed(line).empty();
    between = between || (gap && !blank);
    text = text || !blank;
    gap = text && blank;
  });
  return between ? PostFormat::paragraphs : PostFormat::lines;
}

PostFile parse_posts(std::string_view bytes, PostFormat format, std::string_view where, const PrepareOptions& options) {
  bytes = without_byte_order_mark(bytes);
  Collector out(where, options);
  switch (format) {
    case PostFormat::automatic: BB_CHECK(false, "the format is chosen before");
    case PostFormat::lines: read_lines(bytes, out); break;
    case PostFormat::paragraphs: read_paragraphs(bytes, options.separator, out); break;
    case PostFormat::json: read_json(bytes, where, out); break;
    case PostFormat::jsonl: read_jsonl(bytes, out); break;
    case PostFormat::csv: read_csv(bytes, where, options.column, out); break;
    case PostFormat::twitter: out.add(read_twitter(bytes, where)); break;
    case PostFormat::bluesky: out.add(read_bluesky(bytes, where)); break;
  }
  return {format, std::move(out.posts), {}};
}

PostFile read_posts(const std::filesystem::path& path, const PrepareOptions& options) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  const std::string_view bytes(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  if (const std::string what = foreign_content(bytes); !what.empty())
    throw Error(ErrorCode::bad_file, path.string(), what);
  PostFile file_of = parse_posts(bytes, format_of(path, bytes, options), path.string(), options);
  if (options.format == PostFormat::automatic && options.separator.empty() &&
      file_of.format == PostFormat::paragraphs) {
    int64_t lines = 0;
    for_lines(bytes, [&lines](std::string_view line, int64_t) { lines += trimmed(line).empty() ? 0 : 1; });
    constexpr int64_t kManyLines = 8;  // of a paragraph
    if (lines >= kManyLines * int64_t(file_of.posts.size()))
      file_of.note = cat(path.string(), ": ", lines, " lines are ", file_of.posts.size(),
                         " paragraphs, because it has empty lines; if each line is a text, the format is lines");
  }
  return file_of;
}

}  // namespace bumblebee::dataset
