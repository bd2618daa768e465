// Every way in which the server says no, in OpenAI's form: one table gives the status, the type, the code and what a
// client is told of retrying.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "bumblebee/error.h"
#include "serve/http/http.h"

namespace bumblebee::serve {

enum class Refusal : uint8_t {
  // what the request says
  invalid_json,
  invalid_type,
  invalid_value,
  missing_field,
  unknown_field,
  unsupported_parameter,
  unsupported_content,
  wrong_endpoint,
  context_length,
  bad_request,  // what the library refuses
  // who asks, and for what
  invalid_api_key,
  admin_only,
  foreign_host,
  foreign_origin,
  no_route,
  model_not_found,
  adapter_not_found,
  method,
  adapter_exists,
  generation_differs,
  body_too_large,
  media_type,
  // what the server can do now
  queue_full,
  adapter_busy,
  adapters_full,
  client_left,
  internal,
  hub,
  loading,
  draining,
  out_of_memory,
  timed_out,
};

/// The table's row of a refusal.
struct RefusalKind {
  Refusal refusal;
  int status;
  const char* type;
  const char* code;
  int retry_after;                   // seconds; 0: no such header
  std::optional<bool> should_retry;  // x-should-retry, which the official clients obey; absent: by status
  const char* when;                  // for docs/serving.md
};
const RefusalKind& kind_of(Refusal refusal);

/// One answer that refuses, thrown by what reads requests.
class ApiError : public std::runtime_error {
 public:
  /// `param`: the JSON path of what is wrong, for instance messages[2].content; empty: none.
  ApiError(Refusal refusal, const std::string& message, std::string param = {})
      : std::runtime_error(message), refusal_(refusal), param_(std::move(param)) {}
  /// What the library threw, while it served a request or loaded an adapter. TooLong becomes a sentence with the words
  /// "maximum context length", which clients look for.
  explicit ApiError(const Error& error, std::string param = {});

  /// Instead of the table's; at most 60, since clients give up above.
  ApiError& retry_after(int seconds);

  Refusal refusal() const { return refusal_; }
  const RefusalKind& kind() const { return kind_of(refusal_); }
  int status() const { return kind().status; }
  const std::string& param() const { return param_; }
  std::optional<int> retry_after() const;

 private:
  Refusal refusal_;
  std::string param_;
  int seconds_ = 0;
};

/// {"error": {"message", "type", "param", "code"}}
std::string error_body(const ApiError& error);
HttpResponse error_response(const ApiError& error);
/// What a stream says that has begun: an event, after which it ends without [DONE].
std::string error_event(const ApiError& error);
/// The table as docs/serving.md has it.
std::string error_table();

}  // namespace bumblebee::serve
