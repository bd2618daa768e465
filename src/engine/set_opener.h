// Opens sets of adapters that must be packed first, on a thread of its own: packing takes 100 ms and more, and nobody's
// step shall wait for it. The request that wants the set waits in the queue meanwhile.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engine/sequence.h"
#include "exec/executor.h"

namespace bumblebee::engine {

class SetOpener {
 public:
  using Set = std::shared_ptr<const lora::AdapterSet>;
  /// `opened` is called on the opener's thread whenever a set is there.
  SetOpener(exec::Executor& executor, std::function<void()> opened) : executor_(executor), opened_(std::move(opened)) {}
  ~SetOpener();
  SetOpener(const SetOpener&) = delete;

  /// Begins to open a request's set. The thread starts with the first.
  void open(RequestId id, std::vector<lora::AdapterCache::Part> parts);
  /// What came of it, once; nothing while it is being opened. Throws what opening threw.
  std::optional<Set> take(RequestId id);
  /// A request whose set is there, or could not be opened, and was not taken.
  std::optional<RequestId> untaken() const;
  /// The request is gone.
  void forget(RequestId id) noexcept;

 private:
  struct Wanted {
    RequestId id = 0;
    std::vector<lora::AdapterCache::Part> parts;
  };
  struct Result {
    bool there = false;
    Set set;
    std::exception_ptr error;
  };
  void loop() noexcept;

  exec::Executor& executor_;
  const std::function<void()> opened_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Wanted> wanted_;
  std::map<RequestId, Result> results_;  // a place for each that is wanted
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace bumblebee::engine
