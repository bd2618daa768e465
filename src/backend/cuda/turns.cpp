// An event says where the steps of the stream that came last end; a lock says whose turn it is.
#include "backend/cuda/turns.h"

#include <map>
#include <utility>

namespace bumblebee::cuda {

std::shared_ptr<Turns::Shared> Turns::shared_of(int device) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<Shared>> known;
  const std::lock_guard lock(mutex);
  std::weak_ptr<Shared>& weak = known[device];
  std::shared_ptr<Shared> shared = weak.lock();
  if (shared == nullptr) weak = shared = std::make_shared<Shared>();
  return shared;
}

Turns::Turns(std::shared_ptr<const Device> device) : device_(std::move(device)), shared_(shared_of(device_->index())) {
  const std::lock_guard lock(shared_->mutex);
  device_->use();
  if (!shared_->done) shared_->done.emplace();
  // A stream that is alone says nothing of its steps: they end here.
  if (++shared_->streams > 1) check(cudaDeviceSynchronize(), "a second stream");
}

Turns::~Turns() {
  const std::lock_guard lock(shared_->mutex);
  if (shared_->last == this) shared_->last = nullptr;
  if (--shared_->streams > 0) return;
  (void)cudaSetDevice(device_->index());
  shared_->done.reset();
}

Turns::Turn::Turn(Turns& turns) : turns_(turns), lock_(turns.shared_->mutex) {
  Shared& shared = *turns_.shared_;
  if (++shared.depth > 1 || shared.streams == 1 || shared.last == nullptr || shared.last == &turns_) return;
  shared.done->hold(turns_.device_->compute());
}

Turns::Turn::~Turn() {
  Shared& shared = *turns_.shared_;
  if (--shared.depth > 0 || shared.streams == 1) return;
  shared.last = &turns_;
  try {
    shared.done->record(turns_.device_->compute());
  } catch (...) {  // the card is lost, as others will notice
  }
}

}  // namespace bumblebee::cuda
