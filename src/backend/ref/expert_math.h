// What choosing experts means, for one row and any scalar; and its derivative.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "backend/ops.h"
#include "backend/ref/math.h"

namespace bumblebee::ref {

/// Which experts may be chosen: those of the best groups.
inline std::vector<bool> in_best_groups(std::span<const double> worth, const RouterParams& router) {
  const size_t size = worth.size() / size_t(router.groups);
  std::vector<double> best;
  for (size_t g = 0; g < size_t(router.groups); ++g) {
    std::vector<double> group(worth.begin() + int64_t(g * size), worth.begin() + int64_t((g + 1) * size));
    std::sort(group.rbegin(), group.rend());
    best.push_back(group[0] + (size > 1 && !router.best_alone ? group[1] : 0));
  }
  std::vector<size_t> order(best.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return best[a] > best[b]; });
  std::vector<bool> eligible(worth.size(), false);
  for (size_t i = 0; i < size_t(router.top_groups); ++i)
    std::fill_n(eligible.begin() + int64_t(order[i] * size), size, true);
  return eligible;
}

template <class T>
struct Choice {
  std::vector<int32_t> experts;
  std::vector<T> weights;
};

/// Ops::route for one row. `bias` and `expert_scale` are empty or as long as `logits`.
template <class T>
Choice<T> route(std::span<const T> logits, const RouterParams& router, std::span<const double> bias,
                std::span<const double> expert_scale = {}) {
  const bool softmaxed = router.score == RouterParams::Score::softmax;
  std::vector<T> scores;
  if (softmaxed) {
    scores = softmax(logits);
  } else {
    for (const T& x : logits) scores.push_back(sigmoid(x));
  }
  // Where nothing is added, softmax keeps the order of the logits, which no rounding disturbs.
  const bool by_logits = softmaxed && bias.empty() && router.groups == 1;
  std::vector<double> worth;
  for (size_t e = 0; e < scores.size(); ++e) {
    const double value = by_logits ? real_part(logits[e]) : real_part(scores[e]) + (bias.empty() ? 0 : bias[e]);
    worth.push_back(value == value ? value : -INFINITY);
  }
  const std::vector<bool> eligible = in_best_groups(worth, router);
  std::vector<int32_t> order;
  for (size_t e = 0; e < worth.size(); ++e)
    if (eligible[e]) order.push_back(int32_t(e));
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return worth[size_t(a)] > worth[size_t(b)]; });
  order.resize(size_t(router.top_k));
  Choice<T> chosen{order, {}};
  typename Sum<T>::type sum{router.beside_sum};
  for (const int32_t e : order) sum += scores[size_t(e)];
  for (const int32_t e : order) {
    const double factor = double(router.scale) * (expert_scale.empty() ? 1.0 : expert_scale[size_t(e)]);
    chosen.weights.push_back(T(typename Sum<T>::type(scores[size_t(e)]) / (router.normalise ? sum : 1.0) * factor));
  }
  return chosen;
}

/// The derivative of route for one row: `dlogits` becomes the gradient with respect to the logits of what has the
/// gradient `dweights` with respect to the weights of `chosen`. The choice itself has none. With s the scores and S the
/// sum of the chosen ones, w = c·s/S gives ds = c/S·(dw - Σ dw·s/S), w = c·s gives ds = c·dw; then softmax gives
/// dz = s·(ds - Σ ds·s), the sigmoid s·(1 - s)·ds. `expert_scale` multiplies dw first.
inline void route_dx(std::span<const double> dweights_in, std::span<const double> logits,
                     std::span<const int32_t> chosen, const RouterParams& router, std::span<const double> expert_scale,
                     std::span<double> dlogits) {
  std::vector<double> dweights(dweights_in.begin(), dweights_in.end());
  for (size_t j = 0; j < chosen.size() && !expert_scale.empty(); ++j) dweights[j] *= expert_scale[size_t(chosen[j])];
  const bool softmaxed = router.score == RouterParams::Score::softmax;
  std::vector<double> scores;
  if (softmaxed) {
    scores = softmax(logits);
  } else {
    for (const double x : logits) scores.push_back(sigmoid(x));
  }
  double sum = 1, mean = 0;
  if (router.normalise) {
    sum = router.beside_sum;
    for (const int32_t e : chosen) sum += scores[size_t(e)];
    for (size_t j = 0; j < chosen.size(); ++j) mean += dweights[j] * scores[size_t(chosen[j])] / sum;
  }
  std::vector<double> slopes(scores.size(), 0.0);
  double mixed = 0;
  for (size_t j = 0; j < chosen.size(); ++j) {
    const size_t e = size_t(chosen[j]);
    slopes[e] = double(router.scale) / sum * (dweights[j] - mean);
    mixed += slopes[e] * scores[e];
  }
  for (size_t e = 0; e < scores.size(); ++e)
    dlogits[e] = softmaxed ? scores[e] * (slopes[e] - mixed) : scores[e] * (1 - scores[e]) * slopes[e];
}

}  // namespace bumblebee::ref
