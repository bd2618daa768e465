// Adapters for the public: reading, describing, and handing them to a model's cache.
#include "bumblebee/adapter.h"

#include <algorithm>
#include <utility>

#include "api/adapter_state.h"
#include "api/model_state.h"
#include "lora/read_adapter.h"

namespace bumblebee {
namespace api {
namespace {

AdapterInfo describe(const lora::Adapter& adapter) {
  AdapterInfo info{.name = adapter.name,
                   .format = std::string(lora::to_string(adapter.dialect)),
                   .kind = std::string(lora::to_string(adapter.kind)),
                   .base = adapter.base,
                   .on_top_of = adapter.facts.contains("on_top_of") ? adapter.facts.at("on_top_of") : "",
                   .id = lora::to_string(adapter.id),
                   .rank = 0,
                   .scale = 0,
                   .bytes = lora::size_bytes(adapter),
                   .modules = {}};
  for (const auto& [path, change] : adapter.modules) {
    AdapterModule module{.name = path,
                         .rank = 0,
                         .scale = 0,
                         .dora = false,
                         .weight = change.weight.has_value(),
                         .bias = change.bias.has_value()};
    if (change.low_rank) {
      module.rank = change.low_rank->rank();
      module.scale = change.low_rank->scale;
      module.dora = !change.low_rank->magnitude.empty();
      if (info.rank == 0) info.scale = module.scale;
      info.rank = std::max(info.rank, module.rank);
    }
    info.modules.push_back(std::move(module));
  }
  return info;
}

}  // namespace

const ByteCounter& host_adapter_bytes() {
  static const ByteCounter bytes = make_byte_counter();
  return bytes;
}

Adapter make_adapter(lora::Adapter adapter) {
  auto identified = lora::identify(std::move(adapter));
  AdapterInfo info = describe(*identified);
  CountedBytes bytes(host_adapter_bytes(), info.bytes);
  return Adapter(
      std::make_shared<const AdapterState>(AdapterState{std::move(info), std::move(identified), std::move(bytes)}));
}

std::vector<lora::AdapterCache::Part> parts_of(std::span<const WeightedAdapter> list) {
  std::vector<lora::AdapterCache::Part> parts;
  for (const WeightedAdapter& one : list) parts.push_back({one.adapter.state()->adapter, one.weight});
  return parts;
}

std::shared_ptr<const lora::AdapterSet> ModelState::open(std::span<const WeightedAdapter> list) const {
  return device->adapters().open(parts_of(list));
}

}  // namespace api

const AdapterInfo& Adapter::info() const { return state_->info; }

Adapter load_adapter(const Repository& repository, const AdapterOptions& options) {
  return api::make_adapter(lora::read_adapter(repository.place(), {.scale = options.scale, .name = options.name}));
}

Adapter load_adapter(const Model& model, const Repository& repository, const AdapterOptions& options) {
  Adapter adapter = load_adapter(repository, options);
  model.prepare_adapters({{adapter}});
  return adapter;
}

void Model::prepare_adapters(const std::vector<WeightedAdapter>& adapters) const { state_->open(adapters); }

bool Model::unload_adapter(const Adapter& adapter) const {
  return state_->device->adapters().unload(adapter.state()->adapter->id);
}

AdapterMemory Model::adapter_memory() const {
  const lora::CacheUse use = state_->device->adapters().use();
  return {.bytes = use.bytes,
          .host_bytes = api::host_adapter_bytes()->load(std::memory_order_relaxed),
          .limit = use.limit,
          .adapters = use.adapters};
}

}  // namespace bumblebee
