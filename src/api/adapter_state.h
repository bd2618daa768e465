// What is behind the public handle of an adapter.
#pragma once

#include <memory>
#include <span>

#include "backend/counted_bytes.h"
#include "bumblebee/adapter.h"
#include "lora/identity.h"

namespace bumblebee::api {

/// Bytes of the values of all adapters that somebody holds.
const ByteCounter& host_adapter_bytes();

struct AdapterState {
  AdapterInfo info;
  std::shared_ptr<const lora::Adapter> adapter;  // identified
  CountedBytes host_bytes;
};

Adapter make_adapter(lora::Adapter adapter);

}  // namespace bumblebee::api
