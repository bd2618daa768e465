// A slot's row is one buffer: its modules, then their terms. Rewritten in the order of the compute stream, from memory
// that the driver copies before the call returns.
#include "backend/cuda/slots.h"

#include <algorithm>

#include "backend/cuda/kernels/matmul_wide.h"
#include "backend/cuda/weights.h"

namespace bumblebee::cuda {
namespace {

const float* data_or_null(const Tensor& tensor) { return tensor ? data(tensor) : nullptr; }

}  // namespace

CudaSlots::CudaSlots(std::shared_ptr<const Device> device, std::shared_ptr<Pool> pool)
    : device_(std::move(device)), pool_(std::move(pool)), table_(pool_->take(sizeof(SlotTableView))) {
  const SlotTableView none;
  copy(&none, sizeof(none), *table_);
}

void CudaSlots::copy(const void* from, size_t size, const Buffer& to) {
  device_->use();
  const std::lock_guard lock(device_->recording());
  check(cudaMemcpyAsync(address(to), from, size, cudaMemcpyHostToDevice, device_->compute()), "change a slot");
  check(cudaStreamSynchronize(device_->compute()), "change a slot");
}

void CudaSlots::set(int32_t slot, std::span<const LoraEntry* const> by_site) {
  host_.set(slot, by_site);
  const size_t index = size_t(slot);
  if (by_site.empty() && index >= views_.size()) return;
  if (views_.size() <= index) {
    views_.resize(index + 1);
    sites_.resize(index + 1);
  }
  size_t terms = 0, experts = 0;
  for (const LoraEntry* entry : by_site) {
    if (entry == nullptr) continue;
    terms += entry->terms.size();
    experts += entry->experts.size();
    for (const std::vector<LoraEntry::Term>& expert : entry->experts) terms += expert.size();
  }
  std::vector<std::byte> row(by_site.size() * sizeof(SiteView) + terms * sizeof(LowRankView) +
                             experts * sizeof(ExpertTermsView));
  std::shared_ptr<Buffer> buffer = row.empty() ? nullptr : pool_->take(row.size());
  auto* sites = reinterpret_cast<SiteView*>(row.data());
  auto* term = reinterpret_cast<LowRankView*>(sites + by_site.size());
  auto* expert_at = reinterpret_cast<ExpertTermsView*>(term + terms);
  const auto on_card = [&](const auto* at) {
    return reinterpret_cast<decltype(at)>(address(*buffer) + (reinterpret_cast<const std::byte*>(at) - row.data()));
  };
  // Writes terms one after the other; how many ranks they have.
  Bounds bounds = bounds_;
  bounds.sites = std::max(bounds.sites, int(by_site.size()));
  bounds.many = views_.size() > size_t(kFewSlots);
  const auto put = [&](const std::vector<LoraEntry::Term>& list) {
    int ranks = 0;
    for (const LoraEntry::Term& t : list) {
      *term = static_cast<const CudaLowRank&>(*t.factors.packed).view;
      term->scale = t.scale;
      bounds.rest = bounds.rest || term->bias != nullptr;
      ranks += padded_rank(term++->rank);
    }
    return ranks;
  };
  for (size_t s = 0; s < by_site.size(); ++s) {
    sites[s] = {};
    const LoraEntry* entry = by_site[s];
    if (entry == nullptr) continue;
    sites[s] = {.present = 1,
                .before_bias = entry->comes_before_bias() ? 1 : 0,
                .terms = int32_t(entry->terms.size()),
                .dora_by_token = entry->dora_scale_by_token ? 1 : 0,
                .term = on_card(term),
                .dora_scale = data_or_null(entry->dora_scale),
                .bias = data_or_null(entry->bias),
                .norm = data_or_null(entry->norm),
                .experts = on_card(expert_at),
                .expert_count = int64_t(entry->experts.size())};
    if (entry->weight) sites[s].weight = view_of(entry->weight);
    const LowRankView* const first = term;
    const int ranks = put(entry->terms);
    bounds.ranks = std::max(bounds.ranks, ranks);
    if (!entry->terms.empty()) sites[s].first = *first;
    for (const std::vector<LoraEntry::Term>& expert : entry->experts) {
      *expert_at++ = {.term = on_card(term), .terms = int64_t(expert.size())};
      bounds.ranks = std::max(bounds.ranks, put(expert));
    }
    bounds.weights = bounds.weights || entry->weight;
    bounds.more = bounds.more || entry->comes_before_bias();
    bounds.rest = bounds.rest || entry->comes_before_bias() || ranks > kWideRanks;
  }
  if (buffer != nullptr) copy(row.data(), row.size(), *buffer);
  sites_[index] = buffer;
  views_[index] = {.sites = buffer == nullptr ? nullptr : reinterpret_cast<const SiteView*>(address(*buffer)),
                   .count = int64_t(by_site.size())};
  if (capacity_ < views_.size()) {
    const size_t capacity = std::max<size_t>(2 * views_.size(), 16);
    slots_ = pool_->take(capacity * sizeof(SlotView));
    capacity_ = capacity;
  }
  copy(views_.data(), views_.size() * sizeof(SlotView), *slots_);
  const SlotTableView table = {.slots = reinterpret_cast<const SlotView*>(address(*slots_)),
                               .count = int64_t(views_.size())};
  copy(&table, sizeof(table), *table_);
  if (bounds.sites != bounds_.sites || bounds.ranks != bounds_.ranks || bounds.weights != bounds_.weights ||
      bounds.more != bounds_.more || bounds.rest != bounds_.rest || bounds.many != bounds_.many)
    ++bounds.version;
  bounds_ = bounds;
}

}  // namespace bumblebee::cuda
