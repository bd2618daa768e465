// An adapter on a device: every module's change as the backend wants it, and what it costs in memory. Immutable once
// made; requests that use it keep it alive.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "backend/backend.h"
#include "backend/counted_bytes.h"
#include "lora/adapter.h"
#include "lora/bind_to_base.h"
#include "nn/model.h"

namespace bumblebee::lora {

class PackedAdapter {
 public:
  PackedAdapter(const AdapterId& id, std::string name, CountedBytes bytes)
      : id_(id), name_(std::move(name)), bytes_(std::move(bytes)) {}

  const AdapterId& id() const { return id_; }
  const std::string& name() const { return name_; }
  uint64_t bytes() const { return bytes_.bytes(); }
  /// What the adapter does by itself, by site; modules that it leaves as they are have no entry. Terms that add nothing
  /// (scale, A or B zero) are left out: what they would add to a negative zero would change its sign.
  const std::map<int, LoraEntry>& entries() const { return entries_; }

 private:
  friend std::shared_ptr<const PackedAdapter> pack_adapter(const Adapter&, Backend&, const nn::Model&,
                                                           const std::string&, const ByteCounter&,
                                                           const std::function<void(uint64_t)>&);
  AdapterId id_;
  std::string name_;
  CountedBytes bytes_;
  std::map<int, LoraEntry> entries_;
};

/// Throws Error(device) naming the operation where the backend lacks one that the adapter needs.
void require_operations(const BoundAdapter& bound, const Backend& backend);

/// Fits the adapter to the model, `base` in messages, and packs it. Needs no lock: others may compute on the backend
/// meanwhile. `make_room` is called with the bytes of each part before they count in `counter`, and may throw. Throws
/// Error as bind_to_base() and require_operations() do, and Error(bad_file) when a length that DoRA divides by is zero
/// or not finite.
std::shared_ptr<const PackedAdapter> pack_adapter(const Adapter& adapter, Backend& backend, const nn::Model& model,
                                                  const std::string& base, const ByteCounter& counter,
                                                  const std::function<void(uint64_t)>& make_room);

}  // namespace bumblebee::lora
