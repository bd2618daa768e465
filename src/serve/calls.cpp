// Ending calls, each once, and writing to streams.
#include "serve/calls.h"

#include <algorithm>
#include <new>

#include "base/log.h"

namespace bumblebee::serve {

ApiError current_api_error() {
  try {
    throw;
  } catch (const ApiError& error) {
    return error;
  } catch (const Error& error) {
    return ApiError(error);
  } catch (const std::bad_alloc&) {
    return ApiError(Refusal::out_of_memory, "there is not enough memory for this request now");
  } catch (const std::exception& error) {
    log(LogLevel::error, "request failed: ", error.what());
    return ApiError(Refusal::internal, "the server failed to answer this request; its log says why");
  }
}

void Calls::add(const std::shared_ptr<Call>& call) {
  const std::lock_guard lock(mutex_);
  calls_.emplace(call->id, call);
}

void Calls::left(uint64_t id) noexcept {
  std::shared_ptr<Call> call;
  {
    const std::lock_guard lock(mutex_);
    const auto found = calls_.find(id);
    if (found == calls_.end()) return;
    call = found->second;
  }
  call->stream.drop();
  if (over(call, 499, Work::cancel)) metrics_.left();
}

void Calls::let_go(const std::shared_ptr<Call>& call) noexcept {
  if (over(call, 499, Work::cancel)) metrics_.slow_reader();
}

/// False: it was over before.
bool Calls::over(const std::shared_ptr<Call>& call, int status, Work work) noexcept {
  if (work == Work::cancel)
    call->cancel();
  else
    call->release();
  if (!call->finish()) return false;
  const std::chrono::duration<double> seconds = Call::Clock::now() - call->started;
  metrics_.answered(&call->match.route->id, status, seconds.count());
  try {
    if (log_) log_.add(log_line(*call, status));
  } catch (...) {  // a line less, not an answer less
    log_.drop();
  }
  const std::lock_guard lock(mutex_);
  calls_.erase(call->id);
  if (calls_.empty()) emptied_.notify_all();
  return true;
}

void Calls::answered_on_head(const Asked& asked, int status, const char* code) noexcept {
  const std::chrono::duration<double> seconds = Call::Clock::now() - asked.started;
  metrics_.answered(asked.route, status, seconds.count());
  if (code == std::string_view(kind_of(Refusal::queue_full).code)) metrics_.refused();
  try {
    if (log_) log_.add(log_line(asked, status, code));
  } catch (...) {
    log_.drop();
  }
}

bool Calls::respond(const std::shared_ptr<Call>& call, HttpResponse response) noexcept {
  const int status = response.status;
  try {
    for (auto& header : call->headers()) response.headers.push_back(std::move(header));
  } catch (const std::bad_alloc&) {  // an answer without them is one
  }
  if (!call->stream.respond(std::move(response))) return false;
  over(call, status, Work::done);
  return true;
}

void Calls::end_stream(const std::shared_ptr<Call>& call, std::string_view last) noexcept {
  call->stream.end(last);
  over(call, 200, Work::done);
}

void Calls::refuse(const std::shared_ptr<Call>& call, const ApiError& error) noexcept {
  call->cancel();
  try {
    call->note([&](CallFacts& facts) { facts.error = error.kind().code; });
    // Whether its stream has begun is known only when it is too late for a whole answer.
    if (respond(call, error_response(error))) {
      if (error.refusal() == Refusal::queue_full) metrics_.refused();
      return;
    }
    call->stream.end(error_event(error));
    over(call, error.status(), Work::cancel);
  } catch (...) {
    call->stream.drop();
    over(call, 500, Work::cancel);
  }
}

void Calls::refuse_current_exception(const std::shared_ptr<Call>& call) noexcept {
  try {
    refuse(call, current_api_error());
  } catch (...) {
    call->stream.drop();
    over(call, 500, Work::cancel);
  }
}

void Calls::add_pieces(const std::shared_ptr<Call>& call, std::string_view pieces) {
  if (!call->stream.add(pieces)) return;
  const std::lock_guard lock(dirty_mutex_);
  dirty_.push_back(call);
}

void Calls::flush() noexcept {
  std::vector<std::shared_ptr<Call>> dirty;
  {
    const std::lock_guard lock(dirty_mutex_);
    dirty.swap(dirty_);
  }
  const Stream::Clock::time_point now = Stream::Clock::now();
  for (const std::shared_ptr<Call>& call : dirty) {
    if (!call->stream.flush(now)) let_go(call);
  }
}

std::vector<std::shared_ptr<Call>> Calls::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Call>> copy;
  copy.reserve(calls_.size());
  for (const auto& [id, call] : calls_) copy.push_back(call);
  return copy;
}

void Calls::keep_alive(std::chrono::milliseconds quiet) noexcept {
  const Stream::Clock::time_point now = Stream::Clock::now();
  try {
    for (const std::shared_ptr<Call>& call : all()) {
      if (!call->stream.keep_alive(now, quiet)) let_go(call);
    }
  } catch (const std::bad_alloc&) {  // the next time, then
  }
}

size_t Calls::size() const {
  const std::lock_guard lock(mutex_);
  return calls_.size();
}

std::pair<uint64_t, uint64_t> Calls::ids() const {
  const std::lock_guard lock(mutex_);
  std::pair<uint64_t, uint64_t> ids = {~uint64_t{0}, 0};
  for (const auto& [id, call] : calls_) ids = {std::min(ids.first, id), std::max(ids.second, id)};
  return ids;
}

bool Calls::wait_until_empty(Call::Clock::time_point latest) const {
  std::unique_lock lock(mutex_);
  return emptied_.wait_until(lock, latest, [this] { return calls_.empty(); });
}

void Calls::refuse_all(const ApiError& error) noexcept {
  try {
    for (const std::shared_ptr<Call>& call : all()) refuse(call, error);
  } catch (const std::bad_alloc&) {  // the transport breaks them off
  }
}

}  // namespace bumblebee::serve
