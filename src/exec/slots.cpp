// Tables of the device follow the slots; shapes are computed once per set of slots that meet in a batch.
#include "exec/slots.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"

namespace bumblebee::exec {

Slots::Slots(Backend& backend, const std::vector<nn::TargetModule>& modules) : backend_(backend) {
  for (const nn::TargetModule& module : modules) kinds_.push_back(module.kind);
}

void Slots::tell_backend(int32_t slot, const lora::AdapterSet* set) const {
  std::vector<const LoraEntry*> by_site(kinds_.size(), nullptr);
  for (const auto& [site, entry] : set->entries) by_site[size_t(site)] = &entry;
  backend_.set_slot(slot, by_site);
}

int32_t Slots::acquire(const std::shared_ptr<const lora::AdapterSet>& set) {
  BB_CHECK(set != nullptr);
  if (const auto found = by_set_.find(set.get()); found != by_set_.end()) {
    ++slots_[size_t(found->second)].references;
    return found->second;
  }
  // What can fail comes first, and leaves at most a free slot behind.
  if (free_.empty()) {
    free_.reserve(slots_.size() + 1);  // so that release() never allocates
    slots_.emplace_back();
    free_.push_back(int32_t(slots_.size() - 1));
  }
  const int32_t slot = free_.back();
  tell_backend(slot, set.get());
  try {
    by_set_.emplace(set.get(), slot);
  } catch (...) {
    backend_.set_slot(slot, {});
    throw;
  }
  known_.clear();
  free_.pop_back();
  slots_[size_t(slot)] = {.set = set, .references = 1};
  log(LogLevel::debug, "slot taken: slot=", slot, " adapters=", set->adapters.size(), " used=", by_set_.size());
  return slot;
}

void Slots::release(int32_t slot) {
  Slot& held = slots_.at(size_t(slot));
  BB_CHECK(held.references > 0, "slot ", slot);
  if (--held.references > 0) return;
  by_set_.erase(held.set.get());
  const std::shared_ptr<const lora::AdapterSet> last = std::move(held.set);  // until the device has forgotten it
  known_.clear();
  backend_.set_slot(slot, {});  // which frees, and allocates nothing
  free_.push_back(slot);
  log(LogLevel::debug, "slot freed: slot=", slot, " used=", by_set_.size());
}

const LoraShape& Slots::intern(std::vector<uint8_t> flags) {
  auto& shape = shapes_[std::string(flags.begin(), flags.end())];
  if (shape == nullptr) {
    LoraShape made;
    made.id = uint32_t(shapes_.size());
    for (size_t i = 0; i < flags.size(); ++i) {
      if ((flags[i] & LoraShape::touched) == 0) continue;
      made.low_rank_only &= kinds_[i] == nn::TargetModule::Kind::linear && (flags[i] & LoraShape::before_bias) == 0;
    }
    made.modules = std::move(flags);
    shape = std::make_unique<const LoraShape>(std::move(made));
  }
  return *shape;
}

const LoraShape& Slots::shape(std::span<const int32_t> slot_of_row) {
  std::vector<int32_t> slots(slot_of_row.begin(), slot_of_row.end());
  std::sort(slots.begin(), slots.end());
  slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
  if (slots.empty() || slots.back() < 0) return none_;
  const auto found = known_.find(slots);
  if (found != known_.end()) return *found->second;

  const auto entry_of = [&](int32_t slot, int site) -> const LoraEntry* {
    if (slot < 0) return nullptr;
    const auto& set = slots_.at(size_t(slot)).set;
    BB_CHECK(set != nullptr, "slot ", slot, " is free");
    const auto at = set->entries.find(site);
    return at == set->entries.end() ? nullptr : &at->second;
  };
  std::vector<uint8_t> flags(kinds_.size(), 0);
  bool any = false;
  for (size_t site = 0; site < flags.size(); ++site) {
    bool replaced = kinds_[site] == nn::TargetModule::Kind::linear;
    for (const int32_t slot : slots) {
      const LoraEntry* entry = entry_of(slot, int(site));
      replaced = replaced && entry != nullptr && entry->weight;
      if (entry == nullptr) continue;
      flags[site] |= LoraShape::touched;
      if (entry->comes_before_bias()) flags[site] |= LoraShape::before_bias;
    }
    if (replaced) flags[site] |= LoraShape::replaced;
    any = any || flags[site] != 0;
  }
  const LoraShape& shape = any ? intern(std::move(flags)) : none_;
  known_.emplace(std::move(slots), &shape);
  return shape;
}

}  // namespace bumblebee::exec
