// What the serving's threads tell comes together here: one call of the listener at a time, one end, nothing after it.
#include "api/request_state.h"

#include <new>
#include <utility>

#include "api/reaper.h"
#include "base/error.h"

namespace bumblebee::text::detail {

RequestState::RequestState(int answers, std::shared_ptr<Listener> listener, std::weak_ptr<engine::Engine> engine)
    : engine_(std::move(engine)),
      out_of_memory_(ErrorCode::out_of_memory, "generation", "not enough memory to go on with this request"),
      out_of_memory_thrown_(std::make_exception_ptr(out_of_memory_)),
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

void RequestState::end(int index, Result result, std::string_view rest, int cached) noexcept {
  tell({.index = index,
        .text = rest,
        .tokens = {},
        .logprobs = {},
        .input = result.token_summary.input,
        .cached = cached,
        .finish_reason = result.finish_reason});
  const std::lock_guard lock(mutex_);
  if (over_) return;
  answers_[size_t(index)] = std::move(result);
  if (--left_ > 0) return;
  for (std::optional<Result>& answer : answers_) results_.push_back(std::move(*answer));
  std::vector<Result> copy;
  try {
    if (listener_ != nullptr) copy = results_;
  } catch (...) {
    error_ = out_of_memory_thrown_;
    return finish([this](Listener& listener) { listener.on_error(out_of_memory_); });
  }
  finish([&copy](Listener& listener) { listener.on_end(std::move(copy)); });
}

void RequestState::fail(std::exception_ptr error) noexcept {
  const auto set = [&](const Error& told, std::exception_ptr thrown) {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    error_ = std::move(thrown);
    finish([&told](Listener& listener) { listener.on_error(told); });
  };
  try {
    std::rethrow_exception(error);
  } catch (const Error& told) {
    set(told, error);
  } catch (const std::exception& other) {
    try {
      const bool memory = dynamic_cast<const std::bad_alloc*>(&other) != nullptr;
      if (memory) throw;
      const Error told(ErrorCode::device, "generation", other.what());
      set(told, std::make_exception_ptr(told));
    } catch (...) {
      set(out_of_memory_, out_of_memory_thrown_);
    }
  } catch (...) {
    set(out_of_memory_, out_of_memory_thrown_);
  }
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
  if (error_) std::rethrow_exception(error_);
  return results_;
}

}  // namespace bumblebee::text::detail
