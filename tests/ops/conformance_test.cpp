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

const std::vector<Prepared>& prepared(const std::string& operation) {
  static std::map<std::string, std::vector<Prepared>> all;
  auto [it, fresh] = all.try_emplace(operation);
  if (!fresh) return it->second;
  const auto ref = create_reference();
  for (auto& op_case : cases_of(operation)) {
    Prepared p{std::move(op_case), {}, {}};
    p.reference = p.op_case->run(*ref);
    for (const bool fast : {false, true}) p.bounds[fast] = p.op_case->bounds({.fast = fast}, p.reference);
    it->second.push_back(std::move(p));
  }
  return it->second;
}

class Conformance : public testing::TestWithParam<std::tuple<Target, std::string>> {};

INSTANTIATE_TEST_SUITE_P(All, Conformance,
                         testing::Combine(testing::ValuesIn(targets()), testing::ValuesIn(operations())),
                         [](const auto& p) { return std::get<0>(p.param).name() + "_" + std::get<1>(p.param); });

TEST_P(Conformance, MatchesTheReference) {
  const auto& [target, operation] = GetParam();
  const auto backend = target.create();
  ASSERT_FALSE(prepared(operation).empty());
  for (const Prepared& p : prepared(operation)) {
    SCOPED_TRACE(p.op_case->name());
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
