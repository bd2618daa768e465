// A listener may let go of the last handle of its serving, on that serving's own thread: it must not be joined there.
// Such a serving is ended by a thread that this process keeps for it.
#pragma once

#include <memory>

#include "engine/engine.h"

namespace bumblebee::api {

/// While alive, this thread belongs to a serving, which waits for it.
class OnServingsThread {
 public:
  OnServingsThread() { ++depth_; }
  ~OnServingsThread() { --depth_; }
  OnServingsThread(const OnServingsThread&) = delete;
  OnServingsThread& operator=(const OnServingsThread&) = delete;

  static bool now() { return depth_ > 0; }
  /// Throws Error(bad_request) where `call` would wait for the thread that it is on.
  static void refuse(const char* call);

 private:
  static thread_local int depth_;
};

/// An engine whose last owner may be any thread, its own as well. Throws Error(out_of_memory) when there can be no more
/// threads.
std::shared_ptr<engine::Engine> share(std::unique_ptr<engine::Engine> engine);

}  // namespace bumblebee::api
