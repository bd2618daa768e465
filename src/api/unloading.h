// An adapter that a training packed for itself leaves the model again, whatever happens meanwhile.
#pragma once

#include "bumblebee/model.h"

namespace bumblebee::api {

class Unloading {
 public:
  Unloading(const Model& model, const Adapter& adapter) : model_(model), adapter_(adapter) {}
  Unloading(const Unloading&) = delete;
  Unloading& operator=(const Unloading&) = delete;
  ~Unloading() {
    try {
      model_.unload_adapter(adapter_);
    } catch (...) {  // what happened before is worth more
    }
  }

 private:
  const Model& model_;
  const Adapter& adapter_;
};

}  // namespace bumblebee::api
