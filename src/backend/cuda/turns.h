// Backends of one card take turns. Blocks of some products wait for each other and so must all find room, which they do
// among kernels of one stream: two such kernels side by side could each hold what the other lacks, for ever.
#pragma once

#include <memory>
#include <mutex>
#include <optional>

#include "backend/cuda/device.h"

namespace bumblebee::cuda {

/// One stream's place among those of its card.
class Turns {
 public:
  explicit Turns(std::shared_ptr<const Device> device);
  ~Turns();
  Turns(const Turns&) = delete;

  /// While it lives, others enqueue no steps; what is enqueued runs after theirs. May be nested in one thread.
  class Turn {
   public:
    explicit Turn(Turns& turns);
    ~Turn();
    Turn(const Turn&) = delete;

   private:
    Turns& turns_;
    const std::unique_lock<std::recursive_mutex> lock_;
  };

 private:
  /// Of one card.
  struct Shared {
    std::recursive_mutex mutex;
    int streams = 0, depth = 0;
    const Turns* last = nullptr;  // whose steps `done` follows
    std::optional<Event> done;
  };
  static std::shared_ptr<Shared> shared_of(int device);

  const std::shared_ptr<const Device> device_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace bumblebee::cuda
