// One thread and a list of engines without memory of its own: letting go must not fail. Both live as long as the
// process.
#include "api/reaper.h"

#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"

namespace bumblebee::api {
namespace {

struct Owned {
  std::unique_ptr<engine::Engine> engine;
  Owned* next = nullptr;
};

class Reaper {
 public:
  void start() {
    const std::lock_guard lock(mutex_);
    if (started_) return;
    std::thread([this] { loop(); }).detach();
    started_ = true;
  }
  void take(Owned* owned) noexcept {
    const std::lock_guard lock(mutex_);
    owned->next = std::exchange(first_, owned);
    wake_.notify_one();
  }

 private:
  void loop() noexcept {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return first_ != nullptr; });
      const std::unique_ptr<Owned> owned(std::exchange(first_, first_->next));
      lock.unlock();
      owned->engine.reset();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  Owned* first_ = nullptr;
  bool started_ = false;
};

Reaper& reaper() {
  static auto* one = new Reaper;  // its thread outlives main()
  return *one;
}

void end(Owned* owned) noexcept {
  if (OnServingsThread::now()) return reaper().take(owned);
  delete owned;
}

}  // namespace

thread_local int OnServingsThread::depth_ = 0;

void OnServingsThread::refuse(const char* call) {
  if (now()) throw Error(ErrorCode::bad_request, call, "a listener may not wait: this thread is the serving's own");
}

std::shared_ptr<engine::Engine> share(std::unique_ptr<engine::Engine> engine) {
  try {
    reaper().start();
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::out_of_memory, "serving", cat("expected one more thread, got: ", error.what()));
  }
  auto owned = std::make_unique<Owned>();
  engine::Engine* const raw = engine.get();
  owned->engine = std::move(engine);
  const std::shared_ptr<Owned> shared(owned.release(), end);
  return {shared, raw};
}

}  // namespace bumblebee::api
