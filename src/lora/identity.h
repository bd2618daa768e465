// Which adapter this is, by what it holds: tensors and scales, not names or files. Keys and values of a request may be
// used again only under the same identity.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>

#include "lora/adapter.h"

namespace bumblebee::lora {

/// 128 bits of BLAKE2b. All zeros: nothing (the base).
struct AdapterId {
  std::array<uint8_t, 16> bytes{};
  friend auto operator<=>(const AdapterId&, const AdapterId&) = default;
};
std::string to_string(const AdapterId& id);  // 32 hexadecimal digits

/// An adapter with its identity, shared by all who use it.
struct KnownAdapter {
  Adapter adapter;
  AdapterId id;
};
std::shared_ptr<const KnownAdapter> identify(Adapter adapter);

}  // namespace bumblebee::lora
