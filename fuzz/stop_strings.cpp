// Stop strings and a text in pieces, some of which are only looked at. The first two bytes say how many stop strings
// there are and how the text is cut; strings end at 0xFF. What comes out must be what the definition says: the text
// that is shown before the stop string that is complete first, the longest of those that end together.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "text/stop_strings.h"

namespace {

void check(bool good) {
  if (!good) std::abort();
}

struct Piece {
  std::string_view text;
  bool shown;
};

struct Result {
  std::string text, found;
  bool operator==(const Result&) const = default;
};

std::vector<Piece> cut_up(std::string_view text, uint8_t seed) {
  std::vector<Piece> pieces;
  uint32_t state = seed;
  while (!text.empty()) {
    state = state * 1664525 + 1013904223;
    const size_t size = std::min(text.size(), size_t((state >> 24) % (2 + seed % 16)));  // 0: an empty piece
    pieces.push_back({text.substr(0, size), (state >> 16) % 5 != 0});
    text.remove_prefix(size);
  }
  return pieces;
}

Result by_definition(const std::vector<std::string>& stops, const std::vector<Piece>& pieces) {
  std::string all;
  std::vector<bool> shown;
  for (const Piece& piece : pieces) {
    all += piece.text;
    shown.resize(all.size(), piece.shown);
  }
  Result result;
  size_t end = all.size();
  for (size_t at = 1; at <= all.size() && result.found.empty(); ++at) {
    for (const std::string& stop : stops) {
      if (stop.size() > result.found.size() && std::string_view(all).substr(0, at).ends_with(stop)) result.found = stop;
    }
    if (!result.found.empty()) end = at - result.found.size();
  }
  for (size_t i = 0; i < end; ++i) {
    if (shown[i]) result.text += all[i];
  }
  return result;
}

Result by_pieces(const std::vector<std::string>& stops, const std::vector<Piece>& pieces) {
  using bumblebee::txt::StopStrings;
  StopStrings automaton(stops);
  Result result;
  for (const Piece& piece : pieces)
    result.text += automaton.push(piece.text, piece.shown ? StopStrings::Of::text : StopStrings::Of::control);
  result.text += automaton.flush();
  result.found = automaton.found();
  check(automaton.matched() == !result.found.empty());
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > 4096) return 0;
  std::string_view rest(reinterpret_cast<const char*>(data + 2), size - 2);
  std::vector<std::string> stops;
  for (int i = 0; i < data[0] % 17 && !rest.empty(); ++i) {
    const size_t end = std::min(rest.find('\xFF'), rest.size());
    if (end > 0) stops.emplace_back(rest.substr(0, end));  // empty ones are refused before
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  const std::vector<Piece> pieces = cut_up(rest, data[1]);
  check(by_pieces(stops, pieces) == by_definition(stops, pieces));
  return 0;
}
