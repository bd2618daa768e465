// Counts slips.
#include "options/nearest.h"

#include <algorithm>
#include <utility>

namespace bumblebee::cli {

namespace {

/// Slips from one word to the other: a character too many, too few or another one, or two neighbours exchanged.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), row(b.size() + 1), next(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    next[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      next[j] = std::min({row[j] + 1, next[j - 1] + 1, row[j - 1] + size_t(a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        next[j] = std::min(next[j], before[j - 2] + 1);
    }
    before = std::exchange(row, next);
  }
  return row[b.size()];
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  size_t least = std::max<size_t>(1, std::min<size_t>(3, word.size() / 3)) + 1;
  for (const std::string& one : known) {
    const size_t slips = distance(word, one);
    if (slips >= least) continue;
    least = slips;
    best = one;
  }
  if (!best.empty() || word.size() < 4) return best;
  const auto begins = [&](const std::string& one) { return one.starts_with(word); };
  const bool one = std::count_if(known.begin(), known.end(), begins) == 1;
  return one ? *std::find_if(known.begin(), known.end(), begins) : std::string();
}

}  // namespace bumblebee::cli
