// Character by character; nothing here knows the file system.
#include "hub/names.h"

#include <algorithm>

#include "base/error.h"

namespace bumblebee::hub {
namespace {

bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool digit(char c) { return c >= '0' && c <= '9'; }

bool is_word(std::string_view text) {
  if (text.empty() || text.size() > 96 || text.front() == '-' || text.front() == '.' || text.back() == '-' ||
      text.back() == '.')
    return false;
  if (text.find("..") != std::string_view::npos || text.find("--") != std::string_view::npos) return false;
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return letter(c) || digit(c) || c == '-' || c == '_' || c == '.'; });
}

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return digit(c) || (c >= 'a' && c <= 'f'); });
}

/// Bytes of the UTF-8 character that `text` begins with; 0 when it is none (overlong forms and surrogates included).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? unsigned(static_cast<unsigned char>(text[i])) : 0u; };
  const auto more = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return more(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool overlong = first == 0xE0 && byte(1) < 0xA0, surrogate = first == 0xED && byte(1) >= 0xA0;
    return more(1) && more(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool overlong = first == 0xF0 && byte(1) < 0x90, beyond = first == 0xF4 && byte(1) >= 0x90;
    return more(1) && more(2) && more(3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

/// Empty when every character may stand in a name.
std::string character_defect(std::string_view path) {
  while (!path.empty()) {
    const auto first = static_cast<unsigned char>(path.front());
    if (first < 0x20 || first == 0x7F) return "a control character";
    if (first == '\\') return "a backslash";
    const size_t length = utf8_length(path);
    if (length == 0) return "bytes that are not UTF-8";
    path.remove_prefix(length);
  }
  return "";
}

std::string part_defect(std::string_view part) {
  if (part.empty()) return "an empty part";
  if (part == "." || part == "..") return cat("a part '", part, "'");
  if (part.size() > 255) return "a part longer than 255 bytes";
  if (part.size() >= 2 && letter(part[0]) && part[1] == ':') return "a drive letter";
  return "";
}

}  // namespace

bool is_repository_id(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos || text.ends_with(".git")) return false;
  return is_word(text.substr(0, slash)) && is_word(text.substr(slash + 1));
}

bool is_revision(std::string_view text) { return text.size() <= 512 && path_defect(text).empty(); }

std::string path_defect(std::string_view path) {
  if (path.empty()) return "an empty name";
  if (path.size() > 1024) return "a name longer than 1024 bytes";
  if (path.front() == '/') return "an absolute path";
  if (std::string defect = character_defect(path); !defect.empty()) return defect;
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find('/', start), path.size());
    if (std::string defect = part_defect(path.substr(start, end - start)); !defect.empty()) return defect;
    start = end + 1;
  }
  return "";
}

bool is_sha1(std::string_view text) { return text.size() == 40 && is_hex(text); }
bool is_sha256(std::string_view text) { return text.size() == 64 && is_hex(text); }

std::string fold_case(std::string_view text) {
  std::string folded(text);
  for (char& c : folded) c = c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
  return folded;
}

}  // namespace bumblebee::hub
