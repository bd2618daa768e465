// Which adapter this is, by what it holds: tensors and scales, not names or files. Keys and values of a request may be
// used again only under the same identity.
#pragma once

#include <memory>

#include "lora/adapter.h"

namespace bumblebee::lora {

/// Computes the identity of what the adapter holds and keeps it with it.
std::shared_ptr<const Adapter> identify(Adapter adapter);

}  // namespace bumblebee::lora
