// Comparisons that say where and by how much.
#include "tests/support/tolerance.h"

#include <algorithm>

#include "base/error.h"

namespace bumblebee::testing_support {

double relative_to_rms(std::span<const float> got, std::span<const double> want) {
  BB_CHECK(got.size() == want.size() && !want.empty());
  double worst = 0, squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double gap = std::abs(double(got[i]) - want[i]);
    if (!(gap <= worst)) worst = std::isnan(gap) ? INFINITY : gap;
    squares += want[i] * want[i];
  }
  return worst == 0 ? 0 : worst / std::sqrt(squares / double(want.size()));
}

std::string compare(std::span<const float> got, std::span<const float> want, std::span<const double> bound, int cols) {
  if (got.size() != want.size() || got.size() != bound.size())
    return cat("sizes differ: ", got.size(), ", ", want.size(), ", ", bound.size());
  double worst = 1;
  size_t at = 0, wrong = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i]) continue;
    const double gap = std::abs(double(got[i]) - double(want[i]));
    if (gap <= bound[i]) continue;
    const double ratio = std::isnan(gap) ? INFINITY : gap / std::max(bound[i], 1e-300);
    if (wrong++ == 0 || ratio > worst) {
      worst = ratio;
      at = i;
    }
  }
  if (wrong == 0) return "";
  return cat(wrong, " of ", got.size(), " values are off; worst at row ", at / size_t(cols), " column ",
             at % size_t(cols), ": expected ", want[at], " within ", bound[at], ", got ", got[at], " (error/bound ",
             worst, ")");
}

}  // namespace bumblebee::testing_support
