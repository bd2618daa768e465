// What runs for a request, and its line in the log.
#include "serve/call.h"

#include <nlohmann/json.hpp>

#include "base/json.h"

namespace bumblebee::serve {

Call::Call(uint64_t number, HttpHead request_head, Match route, Caller from, std::string name, Headers answer_headers,
           std::shared_ptr<HttpExchange> exchange)
    : id(number),
      head(std::move(request_head)),
      match(std::move(route)),
      caller(std::move(from)),
      request_id(std::move(name)),
      stream(std::move(exchange)),
      headers_(std::move(answer_headers)) {}

Headers Call::headers() const {
  const std::lock_guard lock(mutex_);
  return headers_;
}

void Call::add_header(std::string name, std::string value) {
  const std::lock_guard lock(mutex_);
  headers_.emplace_back(std::move(name), std::move(value));
}

void Call::running(text::Request request) {
  bool late = false;
  {
    const std::lock_guard lock(mutex_);
    late = cancelled_;
    // Kept beyond the end, it would keep its listener, and that this call.
    if (!released_) running_.push_back(request);
  }
  if (late) request.cancel();
}

void Call::cancel() noexcept {
  std::vector<text::Request> all;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = released_ = true;
    all.swap(running_);  // a cancelled one need not be cancelled again
  }
  for (const text::Request& one : all) one.cancel();
}

CallFacts Call::facts() const {
  const std::lock_guard lock(mutex_);
  return facts_;
}

void Call::release() noexcept {
  std::vector<text::Request> all;
  const std::lock_guard lock(mutex_);
  released_ = true;
  all.swap(running_);
}

namespace {

OrderedJson line_of(const Asked& asked, int status) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  OrderedJson line;
  line["time"] = std::chrono::duration<double>(now).count();
  line["event"] = "request";
  line["id"] = asked.id;
  line["method"] = asked.head.method.substr(0, 16);
  line["route"] = asked.route ? to_string(*asked.route) : "other";
  line["status"] = status;
  line["seconds"] = std::chrono::duration<double>(Call::Clock::now() - asked.started).count();
  line["peer"] = asked.head.peer;
  return line;
}

std::string printed(const OrderedJson& line) {
  return line.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace

std::string log_line(const Asked& asked, int status, std::string_view code) {
  OrderedJson line = line_of(asked, status);
  if (!code.empty()) line["error"] = code;
  return printed(line);
}

std::string log_line(const Call& call, int status) {
  const CallFacts facts = call.facts();
  OrderedJson line = line_of(
      {.head = call.head, .route = &call.match.route->id, .id = call.request_id, .started = call.started}, status);
  if (!call.caller.client.empty()) line["client"] = call.caller.client;
  if (!facts.error.empty()) line["error"] = facts.error;
  if (!facts.model.empty()) {
    line["model"] = facts.model;
    line["adapters"] = facts.adapters;
    line["stream"] = facts.stream;
    line["answers"] = facts.answers;
    line["input_tokens"] = facts.input;
    line["cached_tokens"] = facts.cached;
    line["output_tokens"] = facts.output;
    line["finish"] = facts.finish;
    line["queue_s"] = facts.queue_s;
    line["ttft_s"] = facts.ttft_s;
  }
  if (!facts.body.empty()) line["body"] = facts.body;
  return printed(line);
}

}  // namespace bumblebee::serve
