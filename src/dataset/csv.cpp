// One pass over the bytes.
#include "dataset/csv.h"

#include "base/error.h"

namespace bumblebee::dataset {
namespace {

class CsvParser {
 public:
  CsvParser(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  std::vector<CsvRecord> parse() {
    std::vector<CsvRecord> records;
    while (at_ < text_.size()) {
      CsvRecord record = this->record();
      if (record.fields.size() == 1 && record.fields[0].empty() && !quoted_) continue;  // an empty line
      if (!records.empty() && record.fields.size() != records[0].fields.size()) {
        throw Error(
            ErrorCode::bad_file, cat(where_, ":", record.line),
            cat("expected ", records[0].fields.size(), " fields as in the first line, got ", record.fields.size()));
      }
      records.push_back(std::move(record));
    }
    return records;
  }

 private:
  [[noreturn]] void fail(int64_t line, std::string_view what) const {
    throw Error(ErrorCode::bad_file, cat(where_, ":", line), what);
  }
  bool ends_line() const { return at_ >= text_.size() || text_[at_] == '\n' || text_.substr(at_).starts_with("\r\n"); }

  CsvRecord record() {
    CsvRecord out;
    out.line = line_;
    quoted_ = false;
    for (;;) {
      out.fields.push_back(field());
      if (ends_line()) break;
      ++at_;  // the comma
    }
    if (at_ < text_.size()) at_ += text_[at_] == '\r' ? 2 : 1;
    ++line_;
    return out;
  }

  std::string field() {
    if (at_ < text_.size() && text_[at_] == '"') return quoted_field();
    const size_t begin = at_;
    while (!ends_line() && text_[at_] != ',') {
      if (text_[at_] == '"') fail(line_, "a quote inside a field that does not begin with one");
      ++at_;
    }
    return std::string(text_.substr(begin, at_ - begin));
  }

  std::string quoted_field() {
    const int64_t opened = line_;
    quoted_ = true;
    std::string out;
    for (++at_;; ++at_) {
      if (at_ >= text_.size()) fail(opened, "a quote that is never closed");
      if (text_[at_] == '"') {
        if (at_ + 1 >= text_.size() || text_[at_ + 1] != '"') break;
        ++at_;
      }
      if (text_[at_] == '\n') ++line_;
      out += text_[at_];
    }
    ++at_;
    if (!ends_line() && text_[at_] != ',') fail(line_, "text after the closing quote of a field");
    return out;
  }

  std::string_view text_, where_;
  size_t at_ = 0;
  int64_t line_ = 1;
  bool quoted_ = false;  // any field of the record being read
};

}  // namespace

std::vector<CsvRecord> parse_csv(std::string_view text, std::string_view where) {
  return CsvParser(text, where).parse();
}

}  // namespace bumblebee::dataset
