// The longest common run of words by dynamic programming, kept sparse: of a learned word only the places where the
// sample has it too are looked at.
#include "train/copied_run.h"

#include <algorithm>
#include <cctype>
#include <unordered_map>

#include "base/utf8.h"

namespace bumblebee::train {
namespace {

struct Word {
  std::string folded;
  size_t begin = 0, end = 0;  // bytes of the text
};

/// The code point that begins at `at`, and its bytes; what is no UTF-8 is taken byte by byte.
char32_t code_point(std::string_view text, size_t at, size_t& bytes) {
  const uint8_t lead = uint8_t(text[at]);
  bytes = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  bytes = std::min(bytes, text.size() - at);
  char32_t value = bytes == 1 ? lead : lead & (0x7F >> bytes);
  for (size_t i = 1; i < bytes; ++i) value = value << 6 | (uint8_t(text[at + i]) & 0x3F);
  return value;
}

/// Scripts that put no spaces between words: each character counts as one.
bool stands_alone(char32_t c) {
  return (c >= 0x0E00 && c < 0x0EE0) || (c >= 0x1000 && c < 0x10A0) || (c >= 0x1780 && c < 0x1800) ||
         (c >= 0x3040 && c < 0x3100) || (c >= 0x3400 && c < 0xA000) || (c >= 0xF900 && c < 0xFB00) ||
         (c >= 0x20000 && c < 0x32000);
}

bool in_word(char32_t c) {
  if (c < 0x80) return std::isalnum(int(c)) != 0;
  if (c < 0xC0) return c == 0xAA || c == 0xB5 || c == 0xBA;
  return !(c >= 0x2000 && c < 0x2070) && !(c >= 0x3000 && c < 0x3040) && c != 0xD7 && c != 0xF7 && c != 0xFEFF &&
         !(c >= 0xFF00 && c < 0xFF10);
}

std::vector<Word> words_of(std::string_view text) {
  std::vector<Word> words;
  bool open = false;
  for (size_t at = 0, bytes = 1; at < text.size(); at += bytes) {
    const char32_t c = code_point(text, at, bytes);
    const bool alone = stands_alone(c);
    if (!alone && !in_word(c)) {
      // it's and it’s are one word each
      const bool apostrophe = (c == '\'' || c == 0x2019) && open && at + bytes < text.size();
      size_t after = 1;
      if (apostrophe && in_word(code_point(text, at + bytes, after))) continue;
      open = false;
      continue;
    }
    if (!open || alone) words.push_back({{}, at, at});
    for (size_t i = 0; i < bytes; ++i) {
      const char byte = text[at + i];
      words.back().folded += c < 0x80 ? char(std::tolower(static_cast<unsigned char>(byte))) : byte;
    }
    words.back().end = at + bytes;
    open = !alone;
  }
  return words;
}

}  // namespace

struct CopiedRuns::Sample {
  std::string text;
  std::vector<Word> words;
  std::unordered_map<std::string, std::vector<int>> places;  // of a word, the last first
  std::vector<int> runs;    // [words + 1]: how long a run ends before this place, with the learned word before
  std::vector<int> filled;  // the places of `runs` that are not 0
  int longest = 0, end = 0;
  int64_t source = -1;

  void see(const std::vector<Word>& learned, int64_t number) {
    std::vector<std::pair<int, int>> now;
    for (const Word& word : learned) {
      now.clear();
      if (const auto found = places.find(word.folded); found != places.end()) {
        for (const int place : found->second) now.emplace_back(place + 1, runs[size_t(place)] + 1);
      }
      for (const int place : filled) runs[size_t(place)] = 0;
      filled.clear();
      for (const auto& [place, length] : now) {
        runs[size_t(place)] = length;
        filled.push_back(place);
        if (length > longest) longest = length, end = place, source = number;
      }
    }
    for (const int place : filled) runs[size_t(place)] = 0;
    filled.clear();
  }
};

CopiedRuns::CopiedRuns(const std::vector<std::string>& samples) {
  for (const std::string& text : samples) {
    Sample sample;
    sample.text = text;
    sample.words = words_of(text);
    sample.runs.resize(sample.words.size() + 1);
    for (size_t i = sample.words.size(); i-- > 0;) sample.places[sample.words[i].folded].push_back(int(i));
    samples_.push_back(std::move(sample));
  }
}

CopiedRuns::~CopiedRuns() = default;

void CopiedRuns::add(std::string_view text) {
  const std::vector<Word> learned = words_of(text);
  for (Sample& sample : samples_) sample.see(learned, texts_);
  ++texts_;
}

std::vector<CopiedRun> CopiedRuns::runs() const {
  std::vector<CopiedRun> out;
  for (const Sample& sample : samples_) {
    CopiedRun run{.text = {},
                  .words = sample.longest,
                  .characters = 0,
                  .of_words = int(sample.words.size()),
                  .source = sample.source};
    if (sample.longest > 0) {
      const size_t begin = sample.words[size_t(sample.end - sample.longest)].begin;
      run.text = sample.text.substr(begin, sample.words[size_t(sample.end - 1)].end - begin);
      run.characters = count_characters(run.text);
    }
    out.push_back(std::move(run));
  }
  return out;
}

}  // namespace bumblebee::train
