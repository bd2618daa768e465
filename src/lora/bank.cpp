// Packing is done outside of the lock that lookups take, composing needs none.
#include "lora/bank.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/blake2b.h"

namespace bumblebee::lora {
namespace {

using Parts = std::vector<AdapterBank::Part>;

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::bad_request, "adapters", what); }

/// By identity, without those of weight 0: the order in which a request names its adapters means nothing.
Parts sorted(std::span<const AdapterBank::Part> parts) {
  Parts list;
  for (const AdapterBank::Part& part : parts) {
    BB_CHECK(part.adapter != nullptr);
    if (!std::isfinite(part.weight))
      refuse(cat("adapter '", part.adapter->adapter.name, "': weight: expected a finite number, got ", part.weight));
    if (part.weight != 0) list.push_back(part);
  }
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.adapter->id < b.adapter->id; });
  for (size_t i = 1; i < list.size(); ++i) {
    if (list[i].adapter->id == list[i - 1].adapter->id)
      refuse(cat("adapter '", list[i].adapter->adapter.name, "': expected once, got it twice: give it one weight"));
  }
  return list;
}

AdapterId id_of(const Parts& parts) {
  AdapterId id;
  Blake2b hash(id.bytes.size());
  for (const AdapterBank::Part& part : parts) {
    hash.update(std::as_bytes(std::span(part.adapter->id.bytes)));
    hash.update(std::as_bytes(std::span(&part.weight, 1)));
  }
  hash.finish(id.bytes);
  return id;
}

/// Which of an entry's parts cannot be weighted or shared, by name.
const char* whole_part(const LoraEntry& entry) {
  if (entry.factor) return "rescales its rows (DoRA)";
  if (entry.weight) return "replaces its weight";
  if (entry.bias) return "replaces its bias";
  return entry.norm ? "replaces its weight" : nullptr;
}

/// Adds what one adapter does to a module to what others do.
class Composer {
 public:
  explicit Composer(const nn::Model& model) : model_(model) {}

  void add(LoraEntry& to, int site, const Resident& adapter, const LoraEntry& from, float weight) const {
    const char* whole = whole_part(from);
    if (whole != nullptr && weight != 1)
      refuse(cat("adapter '", adapter.name(), "' ", whole, " (module '", name(site),
                 "'): weight: expected 1 or 0, got ", weight));
    const bool to_changes = !to.terms.empty() || to.weight, from_changes = !from.terms.empty() || from.weight;
    if ((to.factor && (from.factor || from_changes)) || (from.factor && to_changes))
      refuse(cat("module '", name(site),
                 "': DoRA rescales whole rows, which leaves no meaning to a second adapter that ",
                 "changes the same module: expected one adapter there, got '", adapter.name(), "' and another"));
    take(to.weight, from.weight, site, adapter, "weight");
    take(to.bias, from.bias, site, adapter, "bias");
    take(to.norm, from.norm, site, adapter, "weight");
    if (from.factor) {
      to.factor = from.factor;
      to.factor_by_token = from.factor_by_token;
    }
    for (const LoraEntry::Term& term : from.terms) {
      const float scale = term.scale * weight;
      if (scale != 0) to.terms.push_back({term.factors, scale});
    }
  }

 private:
  template <class T>
  void take(T& to, const T& from, int site, const Resident& adapter, const char* what) const {
    if (!from) return;
    if (to)
      refuse(cat("module '", name(site), "': ", what, ": expected one adapter that replaces it, got '", adapter.name(),
                 "' and another"));
    to = from;
  }
  const std::string& name(int site) const { return model_.sites()[size_t(site)].name; }

  const nn::Model& model_;
};

bool empty(const LoraEntry& e) { return e.terms.empty() && !e.factor && !e.weight && !e.bias && !e.norm; }

}  // namespace

AdapterBank::AdapterBank(Backend& backend, const nn::Model& model, std::string name, uint64_t max_bytes)
    : backend_(backend), model_(model), name_(std::move(name)), limit_(max_bytes), tables_(model.sites().size()) {}

std::shared_ptr<const Resident> AdapterBank::find(const AdapterId& id) {
  const std::lock_guard lock(mutex_);
  const auto found = residents_.find(id);
  if (found == residents_.end()) return nullptr;
  found->second.last_used = ++clock_;
  return found->second.resident;
}

void AdapterBank::make_room(uint64_t bytes, const std::string& name) {
  const std::lock_guard lock(mutex_);
  while (memory_->used.load(std::memory_order_relaxed) + bytes > limit_) {
    auto oldest = residents_.end();
    for (auto it = residents_.begin(); it != residents_.end(); ++it) {
      const bool unused = it->second.resident.use_count() == 1;  // copies are made under this lock only
      if (unused && (oldest == residents_.end() || it->second.last_used < oldest->second.last_used)) oldest = it;
    }
    if (oldest == residents_.end()) {
      throw Error(ErrorCode::out_of_memory, "adapters",
                  cat("adapter '", name, "': expected at most ", limit_, " bytes of adapters on the device, got ",
                      memory_->used.load(std::memory_order_relaxed), " in use and ", bytes,
                      " more for one part of it; raise max_adapter_bytes, or wait for requests to end"));
    }
    residents_.erase(oldest);
  }
}

std::shared_ptr<const Resident> AdapterBank::resident(const KnownAdapter& known) {
  if (auto found = find(known.id)) return found;
  const std::lock_guard packing(packing_);
  if (auto found = find(known.id)) return found;  // somebody else was faster
  auto made = make_resident(known, backend_, model_, name_, memory_,
                            [&](uint64_t bytes) { make_room(bytes, known.adapter.name); });
  const std::lock_guard lock(mutex_);
  residents_[known.id] = {made, ++clock_};
  return made;
}

std::shared_ptr<const AdapterSet> AdapterBank::open(std::span<const Part> parts) {
  const Parts list = sorted(parts);
  if (list.empty()) return nullptr;
  const AdapterId id = id_of(list);
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(sets_, [](const auto& set) { return set.second.expired(); });
    if (const auto found = sets_.find(id); found != sets_.end()) {
      if (auto set = found->second.lock()) {
        for (const auto& resident : set->residents) {
          if (const auto held = residents_.find(resident->id()); held != residents_.end())
            held->second.last_used = ++clock_;
        }
        return set;
      }
    }
  }
  auto set = std::make_shared<AdapterSet>();
  set->id = id;
  const Composer composer(model_);
  for (const Part& part : list) {
    set->residents.push_back(resident(*part.adapter));
    for (const auto& [site, entry] : set->residents.back()->entries())
      composer.add(set->entries[site], site, *set->residents.back(), entry, part.weight);
  }
  std::erase_if(set->entries, [](const auto& entry) { return empty(entry.second); });
  const std::lock_guard lock(mutex_);
  std::weak_ptr<const AdapterSet>& known = sets_[id];
  if (auto same = known.lock()) return same;  // requests with equal sets share a slot
  known = set;
  return set;
}

bool AdapterBank::unload(const AdapterId& id) {
  std::shared_ptr<const Resident> last;  // destroyed after the lock is gone
  const std::lock_guard lock(mutex_);
  const auto found = residents_.find(id);
  if (found == residents_.end()) return false;
  last = std::move(found->second.resident);
  residents_.erase(found);
  return true;
}

BankUse AdapterBank::use() const {
  const std::lock_guard lock(mutex_);
  return {.bytes = memory_->used.load(std::memory_order_relaxed),
          .limit = limit_,
          .adapters = int(residents_.size()),
          .slots = slots_in_use_.load(std::memory_order_relaxed)};
}

int32_t AdapterBank::acquire(const std::shared_ptr<const AdapterSet>& set) {
  auto same = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) { return slot.set == set; });
  if (same == slots_.end()) {
    same = std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.set == nullptr; });
    if (same == slots_.end()) same = slots_.insert(same, Slot{});
    same->set = set;
    const size_t slot = size_t(same - slots_.begin());
    for (const auto& [site, entry] : set->entries) {
      auto& entries = tables_[size_t(site)].slots;
      if (entries.size() <= slot) entries.resize(slot + 1, nullptr);
      entries[slot] = &entry;
    }
    slots_in_use_.fetch_add(1, std::memory_order_relaxed);
  }
  ++same->references;
  return int32_t(same - slots_.begin());
}

void AdapterBank::release(int32_t slot) {
  Slot& held = slots_.at(size_t(slot));
  BB_CHECK(held.references > 0, "slot ", slot);
  if (--held.references > 0) return;
  for (const auto& [site, entry] : held.set->entries) tables_[size_t(site)].slots[size_t(slot)] = nullptr;
  held.set = nullptr;
  slots_in_use_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace bumblebee::lora
