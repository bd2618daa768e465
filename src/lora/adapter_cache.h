// The adapters of one loaded model, in two levels: packed for the device, counted and bounded, the longest unused
// leaving first; and composed with weights to the sets that requests name. A packed adapter lives as long as a set
// needs it, a set as long as a request: unloading or replacing an adapter never changes what is already running. Which
// number a batch's rows name a set by is exec's affair.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lora/packed_adapter.h"

namespace bumblebee::lora {

/// Adapters composed with weights, for one model. Immutable.
struct AdapterSet {
  AdapterId id;                                                // of the adapters with their weights, in any order
  std::vector<std::shared_ptr<const PackedAdapter>> adapters;  // kept alive
  std::map<int, LoraEntry> entries;                            // by site
};

struct CacheUse {
  uint64_t bytes = 0, limit = 0;
  int adapters = 0;  // packed
};

class AdapterCache {
 public:
  struct Part {
    std::shared_ptr<const Adapter> adapter;  // identified
    float weight = 1;
  };

  /// Backend and model outlive the cache. `name` is the model's, for messages. At most `max_bytes` of packed adapters.
  AdapterCache(Backend& backend, const nn::Model& model, std::string name, uint64_t max_bytes);

  /// The set of these adapters, packed now where they are not yet. Null when nothing is left: parts with weight 0
  /// do nothing. Equal parts give the same set while somebody holds it. From any thread, while others generate.
  /// Throws Error: what pack_adapter() throws; `bad_request` for a weight that is not finite, an adapter given twice,
  /// and for compositions that have no meaning (see docs/decisions/0008); `out_of_memory` when the adapters do not fit
  /// beside those in use.
  std::shared_ptr<const AdapterSet> open(std::span<const Part> parts);
  /// Throws what open() throws for what is wrong with the adapters themselves, and Error(out_of_memory) where they
  /// would not fit with nobody beside them. Packs nothing, so compositions of what is not packed yet are left to
  /// open().
  void check(std::span<const Part> parts);
  /// As open(), but nothing where an adapter would have to be packed first, which takes a while.
  std::optional<std::shared_ptr<const AdapterSet>> open_packed(std::span<const Part> parts);
  /// What the set of these parts is named by; all zeros for none. Throws Error(bad_request) as open() does for what is
  /// wrong whatever the model.
  static AdapterId identity(std::span<const Part> parts);

  /// Forgets a packed adapter; false when it is not here. Sets that use it go on, and its memory is given back with
  /// the last of them. From any thread.
  bool unload(const AdapterId& id);
  CacheUse use() const;

 private:
  struct Held {
    std::shared_ptr<const PackedAdapter> adapter;
    uint64_t last_used = 0;
  };
  std::shared_ptr<const AdapterSet> known(const AdapterId& id);
  std::shared_ptr<const AdapterSet> compose(const AdapterId& id, std::span<const Part> parts,
                                            std::vector<std::shared_ptr<const PackedAdapter>> adapters);
  std::shared_ptr<const PackedAdapter> packed(const Adapter& adapter);
  std::shared_ptr<const PackedAdapter> find(const AdapterId& id);
  void make_room(uint64_t bytes, const std::string& name);

  Backend& backend_;
  const nn::Model& model_;
  const std::string name_;
  const uint64_t limit_;
  const ByteCounter bytes_ = make_byte_counter();  // of all packed adapters, also of those only running requests use

  std::mutex packing_;        // one adapter at a time; taken before mutex_
  mutable std::mutex mutex_;  // what follows
  std::map<AdapterId, Held> held_;
  std::map<AdapterId, std::weak_ptr<const AdapterSet>> sets_;
  uint64_t clock_ = 0;
};

}  // namespace bumblebee::lora
