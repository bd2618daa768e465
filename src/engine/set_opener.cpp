// One set after the other: packing uses what the machine has by itself.
#include "engine/set_opener.h"

#include <utility>

namespace bumblebee::engine {

SetOpener::~SetOpener() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void SetOpener::open(RequestId id, std::vector<lora::AdapterCache::Part> parts) {
  {
    const std::lock_guard lock(mutex_);
    wanted_.push_back({id, std::move(parts)});
    try {
      results_.try_emplace(id);
      if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
    } catch (...) {
      results_.erase(id);
      wanted_.pop_back();
      throw;
    }
  }
  wake_.notify_one();
}

std::optional<SetOpener::Set> SetOpener::take(RequestId id) {
  const std::lock_guard lock(mutex_);
  const auto found = results_.find(id);
  if (found == results_.end() || !found->second.there) return std::nullopt;
  Result result = std::move(found->second);
  results_.erase(found);
  if (result.error) std::rethrow_exception(std::move(result.error));
  return std::move(result.set);
}

void SetOpener::forget(RequestId id) noexcept {
  const std::lock_guard lock(mutex_);
  results_.erase(id);
}

std::optional<RequestId> SetOpener::untaken() const {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, result] : results_) {
    if (result.there) return id;
  }
  return std::nullopt;
}

void SetOpener::loop() noexcept {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !wanted_.empty(); });
    if (stopping_) return;
    const Wanted wanted = std::move(wanted_.front());
    wanted_.pop_front();
    if (!results_.contains(wanted.id)) continue;
    lock.unlock();
    Result result{.there = true, .set = nullptr, .error = nullptr};
    try {
      result.set = executor_.open(wanted.parts);
    } catch (...) {
      result.error = std::current_exception();
    }
    lock.lock();
    if (const auto place = results_.find(wanted.id); place != results_.end()) std::swap(place->second, result);
    lock.unlock();
    result = {};
    opened_();
    lock.lock();
  }
}

}  // namespace bumblebee::engine
