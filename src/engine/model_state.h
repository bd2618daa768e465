// What a loaded model is behind the public handle: weights on a backend, and the lock that lets one step run at a time.
#pragma once

#include <memory>
#include <mutex>

#include "backend/backend.h"
#include "bumblebee/model.h"
#include "nn/model.h"

namespace bumblebee::engine {

struct ModelState {
  ModelInfo info;
  ModelOptions options;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<nn::Model> model;  // after the backend: its weights die first

  /// A backend computes one bound batch at a time. Held for one step, so that servings of one model and Model::logits
  /// take turns.
  std::mutex compute;

  KvShape kv_shape(int pages, int page_size) const;
};

}  // namespace bumblebee::engine
