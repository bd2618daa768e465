// What a run says of itself at its end: each course of the validation loss has its sentence and its advice.
#include "train/verdict.h"

#include <gtest/gtest.h>

namespace bumblebee::train {
namespace {

struct Course {
  double first, best, now, learned;
  int best_iteration = 10;
  bool kept = true;  // best/
};

std::string of(const Course& c, double passes = 5) {
  TrainResult result;
  result.iterations = 60;
  result.train_loss = c.learned;
  result.first_val_loss = c.first;
  result.best_val_loss = c.best;
  result.val_loss = c.now;
  result.best_iteration = c.best_iteration;
  if (c.kept) result.best = "adapter/best";
  return verdict(result, passes);
}

bool says(const std::string& text, const char* what) { return text.find(what) != std::string::npos; }

TEST(Verdict, WorseAllAlongSaysThatThereIsNoBestAndWhatToChange) {
  const std::string heart = of({.first = 4.071, .best = 4.071, .now = 5.312, .learned = 0.245, .best_iteration = 0}, 9);
  EXPECT_TRUE(says(heart, "never got better than at the start (4.071, now 5.312), so there is no best/")) << heart;
  EXPECT_TRUE(says(heart, "by heart (9 passes over them): fewer iterations")) << heart;
  const std::string wild = of({.first = 4, .best = 4, .now = 9, .learned = 8.5, .best_iteration = 0});
  EXPECT_TRUE(says(wild, "rose too: a lower learning rate")) << wild;
  const std::string still = of({.first = 4, .best = 4, .now = 4.001, .learned = 4, .best_iteration = 0}, 1);
  EXPECT_TRUE(says(still, "more iterations or a higher learning rate")) << still;
}

TEST(Verdict, BetterAndThenWorseNamesWhereItTurned) {
  const std::string turned = of({.first = 4.06, .best = 3.343, .now = 3.477, .learned = 2, .best_iteration = 11});
  EXPECT_EQ(turned, "validation fell from 4.060 to 3.343 at iteration 11 and ended at 3.477: use best/");
  const std::string lost = of({.first = 4, .best = 3, .now = 5, .learned = 1, .best_iteration = 7, .kept = false});
  EXPECT_TRUE(says(lost, "ended at 5.000, no better than at the start: train for about as many iterations")) << lost;
  EXPECT_TRUE(says(lost, "Next time: the loss of the rows that it learned fell to 1.000")) << lost;
}

TEST(Verdict, FlatIsNoTurn) {
  EXPECT_EQ(of({.first = 4, .best = 3.544, .now = 3.545, .learned = 3, .best_iteration = 15}),
            "validation fell from 4.000 to 3.544 at iteration 15 and stayed there: use best/");
}

TEST(Verdict, BetterToTheEnd) {
  const std::string good = of({.first = 4, .best = 3, .now = 3, .learned = 3, .best_iteration = 60});
  EXPECT_EQ(good, "validation fell from 4.000 to 3.000 at iteration 60, the last: best/ holds the same adapter");
}

TEST(Verdict, WithoutValidationItSaysSo) {
  TrainResult result;
  EXPECT_EQ(verdict(result, 1), "") << "nothing was learned";
  result.iterations = 5;
  EXPECT_TRUE(says(verdict(result, 1), "nothing was validated"));
}

}  // namespace
}  // namespace bumblebee::train
