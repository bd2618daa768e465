// Shared by the tests of servings: the tiny model, and calls that are refused.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "bumblebee/serving.h"
#include "tests/api/recorder.h"

namespace bumblebee::text {

inline const Repository kTiny = local(BB_TEST_DATA "/apps/tiny");

/// Answers of printable ASCII: nothing ends them before max_new.
inline GenerationConfig config(int max_new) {
  GenerationConfig c;
  c.max_new_tokens = max_new;
  for (int32_t id = 0; id < 288; ++id) {
    if (id < 32 || id > 126) c.suppressed_token_ids.push_back(id);
  }
  return c;
}

class ServingTest : public ::testing::Test {
 protected:
  Generation serving(const GenerationConfig& c, GenerationOptions options = {}) const {
    if (options.limits.sequence_length == 0) options.limits = {.batch_size = 4, .sequence_length = 256};
    return generation(model_, tokenizer_, c, options);
  }

  ModelOptions one_thread() {
    ModelOptions options;
    options.threads = 1;
    return options;
  }
  Model model_ = load_model(kTiny, one_thread());
  Tokenizer tokenizer_ = load_tokenizer(kTiny);
};

/// What a call that is refused says.
template <class Call>
std::string refusal(ErrorCode code, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return {};
}

/// Answers that do not end by themselves while a test looks at them.
inline constexpr int kEndless = 20'000;
inline const GenerationOptions kLong = {.limits = {.batch_size = 3, .sequence_length = 30'000}};

}  // namespace bumblebee::text
