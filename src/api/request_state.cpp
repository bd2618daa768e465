// What the serving's threads tell comes together here: one call of the listener at a time, one end, nothing after it.
#include "api/request_state.h"

#include <new>
#include <utility>

#include "api/reaper.h"
#include "base/error.h"

namespace bumblebee::text::detail {
namespace {

/// Nothing of it is shared with the other: threads that throw and drop it need not meet.
Error copy_of(const Error& error) {
  const std::string_view whole = error.what();  // "[where] what"
  const size_t border = whole.find("] ");
  return Error(error.code(), whole.substr(1, border - 1), whole.substr(border + 2));
}

/// What a request is told of what ended it; nothing where memory is short.
std::optional<Error> told_of(const std::exception_ptr& error) noexcept {
  try {
    try {
      std::rethrow_exception(error);
    } catch (const Error& told) {
      return copy_of(told);
    } catch (const std::bad_alloc&) {
      return std::nullopt;
    } catch (const std::exception& other) {
      return Error(ErrorCode::device, "generation", other.what());
    }
  } catch (...) {
    return std::nullopt;
  }
}

}  // namespace

RequestState::RequestState(int answers, std::shared_ptr<Listener> listener, std::weak_ptr<engine::Engine> engine)
    : engine_(std::move(engine)),
      out_of_memory_(ErrorCode::out_of_memory, "generation", "not enough memory to go on with this request"),
      listener_(std::move(listener)),
      answers_(size_t(answers)),
      left_(answers) {
  results_.reserve(size_t(answers));
}

void RequestState::tell(const Delta& delta) noexcept {
  const std::lock_guard lock(mutex_);
  if (over_ || listener_ == nullptr) return;
  const api::OnServingsThread here;
  listener_->on_delta(delta);
}

template <class Tell>
void RequestState::finish(const Tell& tell) noexcept {
  if (listener_ != nullptr) {
    const api::OnServingsThread here;
    tell(*listener_);
    listener_.reset();
  }
  over_ = true;
  over_changed_.notify_all();
}

void RequestState::end(int index, Result result, std::string_view rest, std::span<const size_t> marks,
                       int cached) noexcept {
  tell({.index = index,
        .text = rest,
        .tokens = {},
        .logprobs = {},
        .input = result.token_summary.input,
        .cached = cached,
        .finish_reason = result.finish_reason,
        .marks = marks});
  const std::lock_guard lock(mutex_);
  if (over_) return;
  answers_[size_t(index)] = std::move(result);
  if (--left_ > 0) return;
  for (std::optional<Result>& answer : answers_) results_.push_back(std::move(*answer));
  std::vector<Result> copy;
  try {
    if (listener_ != nullptr) copy = results_;
  } catch (...) {
    error_ = &out_of_memory_;
    return finish([this](Listener& listener) { listener.on_error(out_of_memory_); });
  }
  finish([&copy](Listener& listener) { listener.on_end(std::move(copy)); });
}

void RequestState::fail(std::exception_ptr error) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!over_) {
      told_ = told_of(error);
      error_ = told_ ? &*told_ : &out_of_memory_;
      finish([this](Listener& listener) { listener.on_error(*error_); });
    }
  }
  const api::OnServingsThread here;  // cancel() may come to hold the engine last
  cancel();
}

void RequestState::submitted(std::vector<engine::RequestId> ids) noexcept {
  {
    const std::lock_guard lock(ids_mutex_);
    ids_ = std::move(ids);
    id_ = ids_.front();
  }
  if (cancelled()) cancel();
}

void RequestState::cancel() noexcept {
  cancelled_.store(true, std::memory_order_relaxed);
  const std::shared_ptr<engine::Engine> engine = engine_.lock();
  if (engine == nullptr) return;
  const std::lock_guard lock(ids_mutex_);
  for (const engine::RequestId id : ids_) engine->cancel(id);
}

std::vector<Result> RequestState::wait() {
  api::OnServingsThread::refuse("wait");
  std::unique_lock lock(mutex_);
  over_changed_.wait(lock, [this] { return over_; });
  if (error_ != nullptr) throw copy_of(*error_);
  return results_;
}

}  // namespace bumblebee::text::detail
