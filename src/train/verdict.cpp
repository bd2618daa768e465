// Thresholds are rules of thumb; each stands beside what it decides.
#include "train/verdict.h"

#include <cmath>

#include "base/error.h"
#include "base/format.h"

namespace bumblebee::train {
namespace {

std::string loss(double value) { return format("{:.3f}", value); }

/// What may be wrong when validation did not gain: the loss of the rows that were learned tells it.
std::string advice(const TrainResult& result, double passes) {
  const double first = *result.first_val_loss, learned = result.train_loss;
  if (learned < 0.75 * *result.val_loss && passes > 1.5) {
    return cat("the loss of the rows that it learned fell to ", loss(learned), ", so it learned them by heart (",
               format("{:.3g}", passes),
               " passes over them): fewer iterations, a lower learning rate, more rows, or dropout");
  }
  if (learned > 1.05 * first) return "the loss of the rows that it learned rose too: a lower learning rate";
  if (std::abs(*result.val_loss - first) < 0.01 * first)
    return "it hardly moved: more iterations or a higher learning rate";
  return "a lower learning rate or fewer iterations; validating more often (steps_per_eval) shows where it turned";
}

}  // namespace

std::string verdict(const TrainResult& r, double passes) {
  if (r.iterations == 0) return {};
  if (!r.val_loss) {
    return "nothing was validated, so nobody knows whether it helps with texts that it did not see: valid.jsonl wants "
           "a tenth of them";
  }
  if (!r.first_val_loss || !r.best_val_loss) return {};
  const double first = *r.first_val_loss, now = *r.val_loss, best = *r.best_val_loss;
  if (best >= first) {
    return cat("validation never got better than at the start (", loss(first), ", now ", loss(now),
               "), so there is no best/; ", advice(r, passes));
  }
  std::string text = cat("validation fell from ", loss(first), " to ", loss(best), " at iteration ", r.best_iteration);
  if (now <= best) return text + (r.best.empty() ? "" : ", the last: best/ holds the same adapter");
  if (now < 1.005 * best) return text + (r.best.empty() ? " and stayed there" : " and stayed there: use best/");
  text += cat(" and ended at ", loss(now), now >= first ? ", no better than at the start" : "");
  text += r.best.empty() ? ": train for about as many iterations" : ": use best/";
  if (now >= first) text += cat(". Next time: ", advice(r, passes));
  return text;
}

}  // namespace bumblebee::train
