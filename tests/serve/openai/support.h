// What the tests of requests share: a model's rules, and a refusal as a line.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "serve/openai/errors.h"
#include "serve/openai/requests.h"

namespace bumblebee::serve {

inline RequestRules rules() {
  RequestRules rules;
  rules.context = 4096;
  rules.vocab_size = 1000;
  rules.config.eos_token_ids = {2};
  return rules;
}

/// "400 code param: message" of what `read` throws; empty where it throws nothing.
template <class Read>
std::string refusal(const Read& read) {
  try {
    read();
  } catch (const ApiError& error) {
    return cat(error.status(), " ", error.kind().code, " ", error.param().empty() ? "-" : error.param(), ": ",
               error.what());
  }
  return {};
}
inline std::string chat_refusal(const std::string& body, const RequestRules& with = rules()) {
  return refusal([&] { read_chat_request(body, with); });
}
inline std::string completion_refusal(const std::string& body, const RequestRules& with = rules()) {
  return refusal([&] { read_completion_request(body, with); });
}

/// A body with one message, and `fields`, for instance "\"n\": 2".
inline std::string body_of(const std::string& beginning, const std::string& fields) {
  const char* model = fields.starts_with("\"model\"") ? "" : R"("model": "m", )";  // no key twice
  return cat("{", model, beginning, fields.empty() ? "" : ", ", fields, "}");
}
inline std::string chat_body(const std::string& fields = {}) {
  return body_of(R"("messages": [{"role": "user", "content": "Hi"}])", fields);
}
inline std::string completion_body(const std::string& fields = {}) { return body_of(R"("prompt": "Hi")", fields); }
inline ChatRequest chat(const std::string& fields = {}) { return read_chat_request(chat_body(fields), rules()); }
/// A body with these messages.
inline std::string messages_body(const std::string& messages) { return cat(R"({"messages": )", messages, "}"); }

}  // namespace bumblebee::serve
