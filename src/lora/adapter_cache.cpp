// Packing is done outside of the lock that lookups take, composing needs none.
#include "lora/adapter_cache.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/blake2b.h"
#include "base/log.h"
#include "lora/bind_to_base.h"

namespace bumblebee::lora {
namespace {

using Parts = std::vector<AdapterCache::Part>;

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::bad_request, "adapters", what); }

/// By identity, without those of weight 0: the order in which a request names its adapters means nothing.
Parts sorted(std::span<const AdapterCache::Part> parts) {
  Parts list;
  for (const AdapterCache::Part& part : parts) {
    BB_CHECK(part.adapter != nullptr);
    if (!std::isfinite(part.weight))
      refuse(cat("adapter '", part.adapter->name, "': weight: expected a finite number, got ", part.weight));
    if (part.weight != 0) list.push_back(part);
  }
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.adapter->id < b.adapter->id; });
  for (size_t i = 1; i < list.size(); ++i) {
    if (list[i].adapter->id == list[i - 1].adapter->id)
      refuse(cat("adapter '", list[i].adapter->name, "': expected once, got it twice: give it one weight"));
  }
  return list;
}

AdapterId id_of(const Parts& parts) {
  AdapterId id;
  Blake2b hash(id.bytes.size());
  for (const AdapterCache::Part& part : parts) {
    hash.update(std::as_bytes(std::span(part.adapter->id.bytes)));
    hash.update(std::as_bytes(std::span(&part.weight, 1)));
  }
  hash.finish(id.bytes);
  return id;
}

/// Which of an entry's parts cannot be weighted or shared, by name.
const char* whole_part(const LoraEntry& entry) {
  if (entry.dora_scale) return "rescales its rows (DoRA)";
  if (entry.weight) return "replaces its weight";
  if (entry.bias) return "replaces its bias";
  return entry.norm ? "replaces its weight" : nullptr;
}

/// Adds what one adapter does to a module to what others do.
class Composer {
 public:
  explicit Composer(const nn::Model& model) : model_(model) {}

  void add(LoraEntry& to, int site, const PackedAdapter& adapter, const LoraEntry& from, float weight) const {
    const char* whole = whole_part(from);
    if (whole != nullptr && weight != 1)
      refuse(cat("adapter '", adapter.name(), "' ", whole, " (module '", name(site),
                 "'): weight: expected 1 or 0, got ", weight));
    const bool to_changes = !to.terms.empty() || to.weight, from_changes = !from.terms.empty() || from.weight;
    if ((to.dora_scale && (from.dora_scale || from_changes)) || (from.dora_scale && to_changes))
      refuse(cat("module '", name(site),
                 "': DoRA rescales whole rows, which leaves no meaning to a second adapter that ",
                 "changes the same module: expected one adapter there, got '", adapter.name(), "' and another"));
    take(to.weight, from.weight, site, adapter, "weight");
    take(to.bias, from.bias, site, adapter, "bias");
    take(to.norm, from.norm, site, adapter, "weight");
    if (from.dora_scale) {
      to.dora_scale = from.dora_scale;
      to.dora_scale_by_token = from.dora_scale_by_token;
    }
    add(to.terms, from.terms, weight);
    if (to.experts.size() < from.experts.size()) to.experts.resize(from.experts.size());
    for (size_t e = 0; e < from.experts.size(); ++e) add(to.experts[e], from.experts[e], weight);
  }

 private:
  static void add(std::vector<LoraEntry::Term>& to, const std::vector<LoraEntry::Term>& from, float weight) {
    for (const LoraEntry::Term& term : from) {
      const float scale = term.scale * weight;
      if (scale != 0) to.push_back({term.factors, scale});
    }
  }
  template <class T>
  void take(T& to, const T& from, int site, const PackedAdapter& adapter, const char* what) const {
    if (!from) return;
    if (to)
      refuse(cat("module '", name(site), "': ", what, ": expected one adapter that replaces it, got '", adapter.name(),
                 "' and another"));
    to = from;
  }
  const std::string& name(int site) const { return model_.target_modules()[size_t(site)].name; }

  const nn::Model& model_;
};

}  // namespace

AdapterCache::AdapterCache(Backend& backend, const nn::Model& model, std::string name, uint64_t max_bytes)
    : backend_(backend), model_(model), name_(std::move(name)), limit_(max_bytes) {}

std::shared_ptr<const PackedAdapter> AdapterCache::find(const AdapterId& id) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(id);
  if (found == held_.end()) return nullptr;
  found->second.last_used = ++clock_;
  return found->second.adapter;
}

void AdapterCache::make_room(uint64_t bytes, const std::string& name) {
  const std::lock_guard lock(mutex_);
  while (bytes_->load(std::memory_order_relaxed) + bytes > limit_) {
    auto oldest = held_.end();
    for (auto it = held_.begin(); it != held_.end(); ++it) {
      const bool unused = it->second.adapter.use_count() == 1;  // copies are made under this lock only
      if (unused && (oldest == held_.end() || it->second.last_used < oldest->second.last_used)) oldest = it;
    }
    if (oldest == held_.end()) {
      throw Error(ErrorCode::out_of_memory, "adapters",
                  cat("adapter '", name, "': expected at most ", limit_, " bytes of adapters on the device, got ",
                      bytes_->load(std::memory_order_relaxed), " in use and ", bytes,
                      " more for one part of it; raise max_adapter_bytes, or wait for requests to end"));
    }
    log(LogLevel::info, "adapter left: adapter='", oldest->second.adapter->name(), "' for='", name, "' limit=", limit_);
    held_.erase(oldest);
  }
}

std::shared_ptr<const PackedAdapter> AdapterCache::packed(const Adapter& adapter) {
  if (auto found = find(adapter.id)) return found;
  const std::lock_guard packing(packing_);
  if (auto found = find(adapter.id)) return found;  // somebody else was faster
  auto made =
      pack_adapter(adapter, backend_, model_, name_, bytes_, [&](uint64_t bytes) { make_room(bytes, adapter.name); });
  const std::lock_guard lock(mutex_);
  held_[adapter.id] = {made, ++clock_};
  log(LogLevel::info, "adapter packed: adapter='", adapter.name, "' model='", name_,
      "' held_bytes=", bytes_->load(std::memory_order_relaxed), " limit=", limit_, " adapters=", held_.size());
  return made;
}

AdapterId AdapterCache::identity(std::span<const Part> parts) {
  const Parts list = sorted(parts);
  return list.empty() ? AdapterId{} : id_of(list);
}

std::shared_ptr<const AdapterSet> AdapterCache::known(const AdapterId& id) {
  const std::lock_guard lock(mutex_);
  std::erase_if(sets_, [](const auto& set) { return set.second.expired(); });
  const auto found = sets_.find(id);
  auto set = found != sets_.end() ? found->second.lock() : nullptr;
  if (set == nullptr) return nullptr;
  for (const auto& adapter : set->adapters) {
    if (const auto held = held_.find(adapter->id()); held != held_.end()) held->second.last_used = ++clock_;
  }
  return set;
}

std::shared_ptr<const AdapterSet> AdapterCache::compose(const AdapterId& id, std::span<const Part> parts,
                                                        std::vector<std::shared_ptr<const PackedAdapter>> adapters) {
  auto set = std::make_shared<AdapterSet>();
  set->id = id;
  set->adapters = std::move(adapters);
  const Composer composer(model_);
  for (size_t i = 0; i < parts.size(); ++i) {
    for (const auto& [site, entry] : set->adapters[i]->entries())
      composer.add(set->entries[site], site, *set->adapters[i], entry, parts[i].weight);
  }
  std::erase_if(set->entries, [](const auto& entry) { return entry.second.empty(); });
  const std::lock_guard lock(mutex_);
  std::weak_ptr<const AdapterSet>& known = sets_[id];
  if (auto same = known.lock()) return same;  // requests with equal sets share a slot
  known = set;
  return set;
}

std::shared_ptr<const AdapterSet> AdapterCache::open(std::span<const Part> parts) {
  const Parts list = sorted(parts);
  if (list.empty()) return nullptr;
  const AdapterId id = id_of(list);
  if (auto set = known(id)) return set;
  std::vector<std::shared_ptr<const PackedAdapter>> adapters;
  for (const Part& part : list) adapters.push_back(packed(*part.adapter));
  return compose(id, list, std::move(adapters));
}

std::optional<std::shared_ptr<const AdapterSet>> AdapterCache::open_packed(std::span<const Part> parts) {
  const Parts list = sorted(parts);
  if (list.empty()) return nullptr;
  const AdapterId id = id_of(list);
  if (auto set = known(id)) return set;
  std::vector<std::shared_ptr<const PackedAdapter>> adapters;
  for (const Part& part : list) {
    adapters.push_back(find(part.adapter->id));
    if (adapters.back() == nullptr) return std::nullopt;
  }
  return compose(id, list, std::move(adapters));
}

void AdapterCache::check(std::span<const Part> parts) {
  if (open_packed(parts)) return;
  uint64_t least = 0;
  for (const Part& part : sorted(parts)) {
    require_operations(
        bind_to_base(*part.adapter,
                     {.target_modules = model_.target_modules(), .tied_head = model_.dims().tied_head, .name = name_}),
        backend_);
    least += size_bytes(*part.adapter) / 2;  // what bf16 takes, the smallest type that they are packed to
  }
  if (least > limit_) {
    throw Error(ErrorCode::out_of_memory, "adapters",
                cat("adapter '", parts.front().adapter->name, "': expected at most ", limit_,
                    " bytes of adapters on the device, got at least ", least, "; raise max_adapter_bytes"));
  }
}

bool AdapterCache::unload(const AdapterId& id) {
  std::shared_ptr<const PackedAdapter> last;  // destroyed after the lock is gone
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(id);
  if (found == held_.end()) return false;
  last = std::move(found->second.adapter);
  held_.erase(found);
  log(LogLevel::info, "adapter unloaded: adapter='", last->name(), "' in_use=", last.use_count() > 1 ? "yes" : "no");
  return true;
}

CacheUse AdapterCache::use() const {
  const std::lock_guard lock(mutex_);
  return {.bytes = bytes_->load(std::memory_order_relaxed), .limit = limit_, .adapters = int(held_.size())};
}

}  // namespace bumblebee::lora
