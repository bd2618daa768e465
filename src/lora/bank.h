// The adapters of one loaded model. Three levels: residents are adapters packed for the device, counted and bounded,
// the longest unused leaving first; sets are residents composed with weights for a request; slots are the numbers by
// which a batch's rows name a set. A resident lives as long as a set needs it, a set as long as a request: unloading or
// replacing an adapter never changes what is already running.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "lora/resident.h"
#include "nn/infer_pass.h"

namespace bumblebee::lora {

/// Adapters composed with weights, for one model. Immutable.
struct AdapterSet {
  AdapterId id;                                            // of the adapters with their weights, in any order
  std::vector<std::shared_ptr<const Resident>> residents;  // kept alive
  std::map<int, LoraEntry> entries;                        // by site
};

struct BankUse {
  uint64_t bytes = 0, limit = 0;
  int adapters = 0;  // resident
  int slots = 0;     // in use
};

class AdapterBank final : public nn::LoraSites {
 public:
  struct Part {
    std::shared_ptr<const KnownAdapter> adapter;
    float weight = 1;
  };

  /// Backend and model outlive the bank. `name` is the model's, for messages. At most `max_bytes` of packed adapters.
  AdapterBank(Backend& backend, const nn::Model& model, std::string name, uint64_t max_bytes);

  /// The set of these adapters, packed now where they are not resident. Null when nothing is left: parts with weight 0
  /// do nothing. Equal parts give the same set while somebody holds it. From any thread, while others generate.
  /// Throws Error: what make_resident() throws; `bad_request` for a weight that is not finite, an adapter given twice,
  /// and for compositions that have no meaning (see docs/decisions/0008); `out_of_memory` when the adapters do not fit
  /// beside those in use.
  std::shared_ptr<const AdapterSet> open(std::span<const Part> parts);

  /// Forgets a resident adapter; false when it is not here. Sets that use it go on, and its memory is given back with
  /// the last of them. From any thread.
  bool unload(const AdapterId& id);
  BankUse use() const;

  /// Slots. Like table(), to be called under the lock that computing is done under.
  int32_t acquire(const std::shared_ptr<const AdapterSet>& set);
  void release(int32_t slot);
  const LoraTable& table(int site) const override { return tables_[size_t(site)]; }

 private:
  struct Held {
    std::shared_ptr<const Resident> resident;
    uint64_t last_used = 0;
  };
  struct Slot {
    std::shared_ptr<const AdapterSet> set;
    int references = 0;
  };
  std::shared_ptr<const Resident> resident(const KnownAdapter& known);
  std::shared_ptr<const Resident> find(const AdapterId& id);
  void make_room(uint64_t bytes, const std::string& name);

  Backend& backend_;
  const nn::Model& model_;
  const std::string name_;
  const uint64_t limit_;
  const std::shared_ptr<DeviceMemory> memory_ = std::make_shared<DeviceMemory>();

  std::mutex packing_;        // one adapter at a time; taken before mutex_
  mutable std::mutex mutex_;  // what follows
  std::map<AdapterId, Held> residents_;
  std::map<AdapterId, std::weak_ptr<const AdapterSet>> sets_;
  uint64_t clock_ = 0;
  std::atomic<int> slots_in_use_{0};

  std::vector<Slot> slots_;        // under the lock of computing
  std::vector<LoraTable> tables_;  // by site
};

}  // namespace bumblebee::lora
