// What a server serves, once it has a model.
#pragma once

#include <cstdint>
#include <string>

#include "bumblebee/serving.h"
#include "serve/chat/detect.h"
#include "serve/openai/answers.h"
#include "serve/openai/requests.h"

namespace bumblebee::serve {

struct Served {
  Model model;
  Tokenizer tokenizer;
  text::Generation generation;
  RequestRules rules;
  ModelFormats formats;
  std::string name, fingerprint, reasoning_field;
  int64_t created = 0;  // seconds since 1970
  TokenBytes bytes;
};

}  // namespace bumblebee::serve
