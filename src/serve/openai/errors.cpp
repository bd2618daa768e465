// The table of refusals, and how one is written.
#include "serve/openai/errors.h"

#include <algorithm>

#include "base/error.h"
#include "serve/openai/json_out.h"

namespace bumblebee::serve {
namespace {

constexpr int kLongestRetry = 60;
constexpr auto kBadRequest = "invalid_request_error";
constexpr auto kPermission = "permission_error";
constexpr auto kRateLimit = "rate_limit_error";
constexpr auto kServer = "server_error";
constexpr std::nullopt_t kByStatus = std::nullopt;

// In the order of the enum. The official clients ask again by themselves after 408, 409, 429 and 5xx: what cannot
// become right by asking again says so.
constexpr RefusalKind kTable[] = {
    {Refusal::invalid_json, 400, kBadRequest, "invalid_json", 0, kByStatus,
     "The body is no JSON, or more than its limits allow: 64 levels, a million values, 4,096 keys in an object, no key "
     "twice"},
    {Refusal::invalid_type, 400, kBadRequest, "invalid_type", 0, kByStatus, "A field is of another type"},
    {Refusal::invalid_value, 400, kBadRequest, "invalid_value", 0, kByStatus,
     "A field is out of its range, or two exclude each other"},
    {Refusal::missing_field, 400, kBadRequest, "missing_required_parameter", 0, kByStatus, "A field is needed"},
    {Refusal::unknown_field, 400, kBadRequest, "unknown_parameter", 0, kByStatus,
     "With `--strict`: a field that the server does not know"},
    {Refusal::unsupported_parameter, 400, kBadRequest, "unsupported_parameter", 0, kByStatus,
     "A field would change the answer, and is not implemented"},
    {Refusal::unsupported_content, 400, kBadRequest, "unsupported_content", 0, kByStatus,
     "A part of a message is no text"},
    {Refusal::wrong_endpoint, 400, kBadRequest, "wrong_endpoint", 0, kByStatus,
     "The body is another endpoint's; the message says whose"},
    {Refusal::context_length, 400, kBadRequest, "context_length_exceeded", 0, kByStatus,
     "The prompt leaves no room in the context for an answer, or none for `min_tokens`"},
    {Refusal::bad_request, 400, kBadRequest, "bad_request", 0, kByStatus,
     "The model, its template or an adapter refuses the request; the message says why"},
    {Refusal::invalid_api_key, 401, kBadRequest, "invalid_api_key", 0, kByStatus, "No key, or a wrong one"},
    {Refusal::admin_only, 403, kPermission, "admin_key_required", 0, kByStatus,
     "The route wants the administrator's key"},
    {Refusal::foreign_host, 403, kPermission, "host_not_allowed", 0, kByStatus,
     "The Host header names a host that is not this server's"},
    {Refusal::foreign_origin, 403, kPermission, "origin_not_allowed", 0, kByStatus,
     "A browser's page of another origin asks"},
    {Refusal::no_route, 404, kBadRequest, "unknown_url", 0, kByStatus, "There is no such endpoint"},
    {Refusal::model_not_found, 404, kBadRequest, "model_not_found", 0, kByStatus,
     "Neither the model nor an adapter has this name; the message lists those that are there"},
    {Refusal::adapter_not_found, 404, kBadRequest, "adapter_not_found", 0, kByStatus,
     "No adapter has this name, or nothing is at this path"},
    {Refusal::method, 405, kBadRequest, "method_not_allowed", 0, kByStatus, "The endpoint wants another method"},
    {Refusal::adapter_exists, 409, kBadRequest, "adapter_exists", 0, false,
     "An adapter has this name, and `load_inplace` is not set"},
    {Refusal::generation_differs, 409, kBadRequest, "generation_differs", 0, false,
     "The adapter is not of `expected_generation`"},
    {Refusal::body_too_large, 413, kBadRequest, "body_too_large", 0, kByStatus, "The body has more than 8 MB"},
    {Refusal::media_type, 415, kBadRequest, "unsupported_media_type", 0, kByStatus,
     "The body is not `application/json`, or is compressed"},
    {Refusal::queue_full, 429, kRateLimit, "queue_full", 1, kByStatus,
     "As many requests wait as may; `Retry-After` follows from how fast they leave"},
    {Refusal::adapter_busy, 429, kRateLimit, "adapter_busy", 2, kByStatus, "Another adapter is being loaded"},
    {Refusal::adapters_full, 429, kRateLimit, "adapters_full", 0, false,
     "As many adapters are loaded as may; unload one first"},
    {Refusal::client_left, 499, kBadRequest, "client_closed_request", 0, false, "In logs: the client left"},
    {Refusal::internal, 500, kServer, "internal_error", 0, kByStatus, "A defect or a device's failure"},
    {Refusal::hub, 502, kServer, "hub_unreachable", 5, kByStatus, "The Hub does not give an adapter"},
    {Refusal::loading, 503, kServer, "loading", 5, kByStatus, "The model is being loaded"},
    {Refusal::draining, 503, kServer, "draining", 5, kByStatus, "The server is shutting down"},
    {Refusal::out_of_memory, 503, kServer, "out_of_memory", 0, false, "There is no memory for this request"},
    {Refusal::timed_out, 504, kServer, "timed_out", 0, kByStatus,
     "The request's time in the queue or its deadline ran out"},
};

constexpr bool in_order() {
  size_t i = 0;
  for (const RefusalKind& kind : kTable) {
    if (size_t(kind.refusal) != i++) return false;
  }
  return i == size_t(Refusal::timed_out) + 1;
}
static_assert(in_order());

Refusal refusal_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::bad_file:
    case ErrorCode::bad_config:
    case ErrorCode::unsupported:
    case ErrorCode::bad_request:
    case ErrorCode::forbidden: return Refusal::bad_request;
    case ErrorCode::out_of_memory: return Refusal::out_of_memory;
    case ErrorCode::device: return Refusal::internal;
    case ErrorCode::cancelled: return Refusal::client_left;
    case ErrorCode::not_found: return Refusal::adapter_not_found;
    case ErrorCode::network: return Refusal::hub;
    case ErrorCode::too_long: return Refusal::context_length;
    case ErrorCode::busy: return Refusal::queue_full;
    case ErrorCode::timed_out: return Refusal::timed_out;
    case ErrorCode::draining: return Refusal::draining;
  }
  BB_UNREACHABLE();
}

std::string message_of(const Error& error) {
  if (const auto* too_long = dynamic_cast<const TooLong*>(&error)) {
    return cat("This model's maximum context length is ", too_long->limit(), " tokens. However, your request has ",
               too_long->tokens(), " tokens. Shorten the prompt. ", error.what());
  }
  if (error.code() == ErrorCode::too_long) return cat("The request exceeds the maximum context length. ", error.what());
  return error.what();
}

}  // namespace

const RefusalKind& kind_of(Refusal refusal) { return kTable[size_t(refusal)]; }

ApiError::ApiError(const Error& error, std::string param)
    : ApiError(refusal_of(error.code()), message_of(error), std::move(param)) {}

ApiError& ApiError::retry_after(int seconds) {
  seconds_ = std::clamp(seconds, 1, kLongestRetry);
  return *this;
}

std::optional<int> ApiError::retry_after() const {
  const int seconds = seconds_ > 0 ? seconds_ : kind().retry_after;
  return seconds > 0 ? std::optional(seconds) : std::nullopt;
}

std::string error_body(const ApiError& error) {
  std::string out = R"({"error":{"message":)";
  append_string(error.what(), out);
  out += cat(R"(,"type":")", error.kind().type, R"(","param":)");
  if (error.param().empty()) {
    out += "null";
  } else {
    append_string(error.param(), out);
  }
  out += cat(R"(,"code":")", error.kind().code, R"("}})");
  return out;
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status();
  response.headers = {{"content-type", "application/json"}};
  if (const auto seconds = error.retry_after()) response.headers.emplace_back("retry-after", cat(*seconds));
  if (const auto again = error.kind().should_retry) {
    response.headers.emplace_back("x-should-retry", *again ? "true" : "false");
  }
  if (error.refusal() == Refusal::invalid_api_key) response.headers.emplace_back("www-authenticate", "Bearer");
  response.body = error_body(error);
  return response;
}

std::string error_event(const ApiError& error) { return cat("data: ", error_body(error), "\n\n"); }

std::string error_table() {
  std::string out =
      "| status | `code` | `type` | when | `Retry-After` | `x-should-retry` |\n|---|---|---|---|---|---|\n";
  for (const RefusalKind& kind : kTable) {
    out += cat("| ", kind.status, " | `", kind.code, "` | `", kind.type, "` | ", kind.when, " | ");
    out += cat(kind.retry_after > 0 ? cat(kind.retry_after) : "", kind.refusal == Refusal::queue_full ? " to 60" : "",
               " | ");
    out += cat(!kind.should_retry ? "" : *kind.should_retry ? "true" : "false", " |\n");
  }
  return out;
}

}  // namespace bumblebee::serve
