// What is behind the public handle of an adapter.
#pragma once

#include <memory>
#include <span>

#include "bumblebee/adapter.h"
#include "lora/identity.h"

namespace bumblebee::engine {

struct AdapterState {
  AdapterInfo info;
  std::shared_ptr<const lora::KnownAdapter> known;
};

Adapter make_adapter(lora::Adapter adapter);

}  // namespace bumblebee::engine
