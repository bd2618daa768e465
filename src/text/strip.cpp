// What might become something to leave out is held back until it is decided.
#include "text/strip.h"

#include <algorithm>
#include <utility>

#include "base/mark_byte.h"
#include "base/thought_tags.h"
#include "text/characters.h"

namespace bumblebee::txt {
namespace {

/// What the matchers below say beside how many bytes go.
constexpr size_t kMore = 0, kStays = std::string_view::npos;
/// Bytes that are held back at most until it is known where a hashtag or a row of emoji ends.
constexpr size_t kLongest = 512;

struct Range {
  char32_t first, last;
};

/// Shown as pictures by themselves: Emoji_Presentation of Unicode 16, whole blocks where nearly all of them are, and
/// what has Emoji in the block of symbols that phones show as pictures.
constexpr Range kEmoji[] = {
    {0x231A, 0x231B},   {0x23E9, 0x23EC},   {0x23F0, 0x23F0},   {0x23F3, 0x23F3},   {0x25FD, 0x25FE},
    {0x2600, 0x2604},   {0x260E, 0x260E},   {0x2611, 0x2611},   {0x2614, 0x2615},   {0x2618, 0x2618},
    {0x261D, 0x261D},   {0x2620, 0x2620},   {0x2622, 0x2623},   {0x2626, 0x2626},   {0x262A, 0x262A},
    {0x262E, 0x262F},   {0x2638, 0x263A},   {0x2640, 0x2640},   {0x2642, 0x2642},   {0x2648, 0x2653},
    {0x265F, 0x2660},   {0x2663, 0x2663},   {0x2665, 0x2666},   {0x2668, 0x2668},   {0x267B, 0x267B},
    {0x267E, 0x267F},   {0x2692, 0x2697},   {0x2699, 0x2699},   {0x269B, 0x269C},   {0x26A0, 0x26A1},
    {0x26A7, 0x26A7},   {0x26AA, 0x26AB},   {0x26B0, 0x26B1},   {0x26BD, 0x26BE},   {0x26C4, 0x26C5},
    {0x26C8, 0x26C8},   {0x26CE, 0x26CF},   {0x26D1, 0x26D1},   {0x26D3, 0x26D4},   {0x26E9, 0x26EA},
    {0x26F0, 0x26F5},   {0x26F7, 0x26FA},   {0x26FD, 0x26FD},   {0x2702, 0x2702},   {0x2705, 0x2705},
    {0x2708, 0x270D},   {0x270F, 0x270F},   {0x2712, 0x2712},   {0x2714, 0x2714},   {0x2716, 0x2716},
    {0x271D, 0x271D},   {0x2721, 0x2721},   {0x2728, 0x2728},   {0x2733, 0x2734},   {0x2744, 0x2744},
    {0x2747, 0x2747},   {0x274C, 0x274C},   {0x274E, 0x274E},   {0x2753, 0x2755},   {0x2757, 0x2757},
    {0x2763, 0x2764},   {0x2795, 0x2797},   {0x27A1, 0x27A1},   {0x27B0, 0x27B0},   {0x27BF, 0x27BF},
    {0x2B1B, 0x2B1C},   {0x2B50, 0x2B50},   {0x2B55, 0x2B55},   {0x1F004, 0x1F004}, {0x1F0CF, 0x1F0CF},
    {0x1F170, 0x1F171}, {0x1F17E, 0x1F17F}, {0x1F18E, 0x1F18E}, {0x1F191, 0x1F19A}, {0x1F1E6, 0x1F1FF},
    {0x1F201, 0x1F202}, {0x1F21A, 0x1F21A}, {0x1F22F, 0x1F22F}, {0x1F232, 0x1F23A}, {0x1F250, 0x1F251},
    {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F7E0, 0x1F7F0}, {0x1F900, 0x1F9FF}, {0x1FA70, 0x1FAFF}};

constexpr char32_t kPicture = 0xFE0F, kAsText = 0xFE0E, kJoiner = 0x200D, kKeycap = 0x20E3;

bool is_emoji(char32_t c) {
  return std::any_of(std::begin(kEmoji), std::end(kEmoji),
                     [c](const Range& range) { return c >= range.first && c <= range.last; });
}

/// Text by itself, and a picture when a selector says so.
bool may_be_picture(char32_t c) {
  return (c >= '0' && c <= '9') || c == '#' || c == '*' || c == 0xA9 || c == 0xAE || (c >= 0x203C && c <= 0x2BFF) ||
         c == 0x3030 || c == 0x303D || c == 0x3297 || c == 0x3299;
}

/// Belongs to the picture before it: selectors, skin tones, keycaps, tags of flags.
bool goes_with_picture(char32_t c) {
  return c == kPicture || c == kAsText || c == kKeycap || (c >= 0x1F3FB && c <= 0x1F3FF) ||
         (c >= 0xE0020 && c <= 0xE007F);
}

/// Letters, digits and underscores: all but ASCII's and Unicode's punctuation, symbols and blanks.
bool is_word(char32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  if (c < 0xC0) return c == 0xAA || c == 0xB5 || c == 0xBA;
  const bool punctuation = c == 0xD7 || c == 0xF7 || (c >= 0x2000 && c <= 0x206F) || (c >= 0x20A0 && c <= 0x20CF) ||
                           (c >= 0x2190 && c <= 0x2BFF) || (c >= 0x2E00 && c <= 0x2E7F) ||
                           (c >= 0x3000 && c <= 0x3004) || (c >= 0x3008 && c <= 0x3020) ||
                           (c >= 0xFE00 && c <= 0xFE0F) || (c >= 0xFF01 && c <= 0xFF0F) ||
                           (c >= 0xFF1A && c <= 0xFF20) || (c >= 0x1F000 && c <= 0x1FAFF) || c == 0xFFFD;
  return !punctuation;
}

/// How many bytes of `rest` one of the tags is; kMore where it may become one.
size_t tag_at(std::string_view rest, const ThoughtTags& tags, bool certain, bool end) {
  if (certain) {
    if (!rest.starts_with(kMarkByte)) return kStays;
    const size_t size = tag_at(rest.substr(1), tags, false, end);
    return size == kMore || size == kStays ? size : size + 1;
  }
  for (const std::string_view tag : tags) {
    if (rest.starts_with(tag)) return tag.size();
  }
  for (const std::string_view tag : tags) {
    if (!end && tag.starts_with(rest)) return kMore;
  }
  return kStays;
}

}  // namespace

bool is_thought_tag(std::string_view text) {
  return std::find(kThoughtOpens.begin(), kThoughtOpens.end(), text) != kThoughtOpens.end() ||
         std::find(kThoughtCloses.begin(), kThoughtCloses.end(), text) != kThoughtCloses.end();
}

Stripper::Stripper(const StripOptions& options) : options_(options), in_thought_(options.in_thought && options.think) {}

std::string Stripper::push(std::string_view piece) {
  if (!options_.think && !options_.hashtags && !options_.emoji) return std::string(piece);
  held_ += piece;
  std::string out;
  size_t at = 0;
  while (at < held_.size()) {
    const size_t taken = step(std::string_view(held_).substr(at), false, out);
    if (taken == kMore) break;
    at += taken;
  }
  held_.erase(0, at);
  return out;
}

std::string Stripper::flush() {
  std::string out;
  for (std::string_view rest = held_; !rest.empty();) rest.remove_prefix(step(rest, true, out));
  held_.clear();
  if (!gap_) out += blanks_;
  blanks_.clear();
  return out;
}

/// Decides about the beginning of `rest`: how many bytes are done with, or kMore.
size_t Stripper::step(std::string_view rest, bool end, std::string& out) {
  if (in_thought_) {
    const size_t taken = thought(rest, end);
    if (!in_thought_) removed();
    return taken;
  }
  if (options_.think) {
    const size_t opens = tag_at(rest, kThoughtOpens, options_.certain_marks, end);
    const size_t closes = opens == kStays ? tag_at(rest, kThoughtCloses, options_.certain_marks, end) : kStays;
    if (opens == kMore || closes == kMore) return kMore;
    if (opens != kStays || closes != kStays) {
      in_thought_ = opens != kStays;
      removed();
      return in_thought_ ? opens : closes;
    }
  }
  size_t goes = options_.emoji ? emoji(rest, end) : kStays;
  if (goes == kStays && options_.hashtags) goes = hashtag(rest, end);
  if (goes == kMore) return kMore;
  if (goes != kStays) {
    removed();
    return goes;
  }
  size_t length = 0;
  last_ = next_character(rest, length);
  keep(rest.substr(0, length), out);
  return length;
}

/// What goes of a thought: all of it to its end, or all that cannot be the beginning of the end.
size_t Stripper::thought(std::string_view rest, bool end) {
  size_t first = std::string_view::npos, length = 0;
  for (const std::string_view tag : kThoughtCloses) {
    const std::string whole = (options_.certain_marks ? std::string(1, kMarkByte) : "") + std::string(tag);
    if (const size_t at = rest.find(whole); at < first) first = at, length = whole.size();
  }
  if (first != std::string_view::npos) {
    in_thought_ = false;
    return first + length;
  }
  if (end) return rest.size();
  size_t longest = 0;
  for (const std::string_view tag : kThoughtCloses) longest = std::max(longest, tag.size() + 1);
  size_t at = rest.size() > longest ? rest.size() - longest : 0;
  while (at < rest.size() && tag_at(rest.substr(at), kThoughtCloses, options_.certain_marks, false) != kMore) ++at;
  return at;
}

size_t Stripper::hashtag(std::string_view rest, bool end) {
  size_t at = 0;
  const char32_t sign = next_character(rest, at);
  if ((sign != '#' && sign != 0xFF03) || is_word(last_) || last_ == '&' || last_ == '/') return kStays;
  bool number = true;
  size_t word = at;
  while (at < rest.size()) {
    const char32_t c = next_character(rest, at);
    if (!is_word(c)) return number ? kStays : word;
    number = number && c >= '0' && c <= '9';
    word = at;
  }
  if (!end && rest.size() <= kLongest) return kMore;
  return number ? kStays : word;
}

size_t Stripper::emoji(std::string_view rest, bool end) const {
  size_t at = 0;
  const char32_t first = next_character(rest, at);
  if (!is_emoji(first)) {
    if (!may_be_picture(first)) return kStays;
    if (at == rest.size()) return end ? kStays : kMore;
    const char32_t selector = next_character(rest, at);
    if (selector != kPicture && selector != kKeycap) return kStays;
  }
  bool joined = false;
  for (size_t after = at; at < rest.size(); at = after) {
    const char32_t c = next_character(rest, after);
    if (!joined && !goes_with_picture(c) && c != kJoiner && !is_emoji(c)) return at;
    joined = c == kJoiner;
  }
  return end || rest.size() > kLongest ? at : kMore;
}

void Stripper::removed() {
  gap_ = true;
  last_ = 0;
}

void Stripper::keep(std::string_view character, std::string& out) {
  if (is_blank(last_)) {
    blanks_ += character;
    return;
  }
  if (gap_) {
    const auto lines = std::count(blanks_.begin(), blanks_.end(), '\n');
    const bool mark = std::string_view(".,;:!?)").find(character) != std::string_view::npos;
    if (begun_ && lines > 0) {
      out.append(size_t(std::min<std::ptrdiff_t>(lines, 2)), '\n');
    } else if (begun_ && !blanks_.empty() && !mark) {
      out += ' ';
    }
  } else {
    out += blanks_;
  }
  blanks_.clear();
  gap_ = false;
  begun_ = true;
  out += character;
}

}  // namespace bumblebee::txt
