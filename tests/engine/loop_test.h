// Shared by the tests of the loop: requests and options without a model, and calls that fail.
#pragma once

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/engine/answer.h"
#include "tests/engine/scripted_executor.h"

namespace bumblebee::engine {

inline Request work(int prompt, int max_new, int32_t first = 1) {
  Request request;
  for (int i = 0; i < prompt; ++i) request.prompt.push_back((first + i) % kVocab);
  request.config.max_new_tokens = max_new;
  return request;
}

inline EngineOptions options(int batch_size) {
  EngineOptions options;
  options.batch_size = batch_size;
  options.sequence_length = 2000;
  options.vocab = kVocab;
  options.d_model = 1;
  return options;
}

inline ErrorCode code_of(Answer& answer) {
  try {
    (void)answer.wait();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "it was answered";
  return ErrorCode::bad_file;
}

template <class Call>
ErrorCode code_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "nothing was refused";
  return ErrorCode::bad_file;
}

}  // namespace bumblebee::engine
