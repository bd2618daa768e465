// Every operation on every backend, instruction set and precision of this machine, against the reference, within bounds
// that follow from sizes and roundings.
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "tests/ops/cases/op_case.h"
#include "tests/support/backends.h"
#include "tests/support/tolerance.h"

namespace bumblebee {
namespace {

using namespace op_cases;
using namespace testing_support;

/// A case with its reference result and its bounds in both precisions, computed once for all targets.
struct Prepared {
  std::unique_ptr<OpCase> op_case;
  std::vector<Output> reference;
  std::vector<std::vector<double>> bounds[2];
};

std::vector<Prepared> prepare(Cases cases) {
  const auto ref = create_reference();
  std::vector<Prepared> list;
  for (auto& op_case : cases) {
    Prepared p{std::move(op_case), {}, {}};
    p.reference = p.op_case->run(*ref);
    for (const bool fast : {false, true}) p.bounds[fast] = p.op_case->bounds({.fast = fast}, p.reference);
    list.push_back(std::move(p));
  }
  return list;
}

void expect_within_bounds(const Target& target, const std::vector<Prepared>& cases) {
  ASSERT_FALSE(cases.empty());
  const auto backend = target.create();
  for (const Prepared& p : cases) {
    if (const auto needed = p.op_case->needs(); needed && lacks(target.backend, *needed)) continue;
    SCOPED_TRACE(p.op_case->name());
    if (!has_formats(target.backend, p.op_case->formats())) continue;
    const std::vector<Output> got = p.op_case->run(*backend);
    const auto& bounds = p.bounds[target.options.fast];
    ASSERT_EQ(got.size(), p.reference.size());
    for (size_t i = 0; i < got.size(); ++i) {
      const Output& want = p.reference[i];
      EXPECT_EQ(got[i].rows, want.rows) << want.what;
      EXPECT_EQ(got[i].cols, want.cols) << want.what;
      EXPECT_EQ(compare(got[i].values, want.values, bounds[i], std::max(1, want.cols)), "") << want.what;
    }
  }
}

using OfOneOperation = testing::TestWithParam<std::tuple<Target, std::string>>;
std::string target_and_operation(const testing::TestParamInfo<OfOneOperation::ParamType>& info) {
  return std::get<0>(info.param).name() + "_" + std::get<1>(info.param);
}

class Conformance : public OfOneOperation {};
INSTANTIATE_TEST_SUITE_P(All, Conformance,
                         testing::Combine(testing::ValuesIn(targets()), testing::ValuesIn(operations())),
                         target_and_operation);

TEST_P(Conformance, MatchesTheReference) {
  static std::map<std::string, std::vector<Prepared>> all;
  const auto& [target, operation] = GetParam();
  if (is_of_training(operation) && !can_train(target.backend)) return;
  if (const auto needed = needed_operation(operation); needed && lacks(target.backend, *needed)) return;
  const auto [it, fresh] = all.try_emplace(operation);
  if (fresh) it->second = prepare(cases_of(operation));
  expect_within_bounds(target, it->second);
}

/// The same for a few cases: what runs under emulation and with sanitizers.
class ChosenConformance : public OfOneOperation {};
INSTANTIATE_TEST_SUITE_P(All, ChosenConformance,
                         testing::Combine(testing::ValuesIn(targets_of_one_thread()), testing::ValuesIn(operations())),
                         target_and_operation);

TEST_P(ChosenConformance, MatchesTheReference) {
  static std::map<std::string, std::vector<Prepared>> all;
  const auto& [target, operation] = GetParam();
  if (is_of_training(operation) && !can_train(target.backend)) return;
  if (const auto needed = needed_operation(operation); needed && lacks(target.backend, *needed)) return;
  const auto [it, fresh] = all.try_emplace(operation);
  if (fresh) it->second = prepare(chosen_cases_of(operation));
  expect_within_bounds(target, it->second);
}

/// docs/internals/numerics.md: in exact precision the sets with a fused multiply-add compute the same bits.
TEST(ChosenCases, HaveTheSameBitsOnEverySetThatFuses) {
  std::vector<std::unique_ptr<Backend>> backends;
  for (const Target& target : targets_of_one_thread()) {
    if (target.backend == "cpu" && !target.options.fast && target.options.instruction_set != "scalar")
      backends.push_back(target.create());
  }
  for (const std::string& operation : operations()) {
    for (const auto& op_case : chosen_cases_of(operation)) {
      std::vector<Output> first;
      for (const auto& backend : backends) {
        const std::vector<Output> got = op_case->run(*backend);
        if (first.empty()) first = got;
        for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i].values, first[i].values) << op_case->name();
      }
    }
  }
}

TEST(OpCases, AreManyAndNamedOnce) {
  std::map<std::string, int> names;
  for (const std::string& operation : operations()) {
    for (const auto& op_case : cases_of(operation)) ++names[op_case->name()];
  }
  EXPECT_GT(names.size(), 400u);
  for (const auto& [name, count] : names) EXPECT_EQ(count, 1) << name;
}

TEST(OpCases, ReferenceIsTheSameTwice) {
  const auto a = create_reference(), b = create_reference();
  for (const std::string& operation : operations()) {
    const Cases cases = cases_of(operation);
    for (size_t i = 0; i < cases.size(); i += 5) {
      const std::vector<Output> first = cases[i]->run(*a), second = cases[i]->run(*b);
      for (size_t o = 0; o < first.size(); ++o) EXPECT_EQ(first[o].values, second[o].values) << cases[i]->name();
    }
  }
}

}  // namespace
}  // namespace bumblebee
