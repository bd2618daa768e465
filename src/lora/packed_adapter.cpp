// From the normalised adapter to a backend's packings, module by module.
#include "lora/packed_adapter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "lora/bind_to_base.h"
#include "quant/elements.h"

namespace bumblebee::lora {
namespace {

bool all_zero(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return v == 0; });
}

bool adds_nothing(const FactorView& factors) {
  const bool product = all_zero(factors.a) || all_zero(factors.b);
  return factors.scale == 0 || (product && all_zero(factors.bias));
}

/// The narrowest type that holds every value.
DType narrowest(std::span<const float> values) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    std::array<std::byte, 2> bytes;
    const bool fits = std::all_of(values.begin(), values.end(), [&](float v) {
      store_float(bytes, dtype, 0, v);
      return load_float(bytes, dtype, 0) == v;
    });
    if (fits) return dtype;
  }
  return DType::f32;
}

/// Dense [rows, cols] that owns its bytes.
HostWeight dense(const std::string& name, std::span<const float> values, int rows, int cols, DType dtype) {
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * size_t(size_of(dtype)));
  for (size_t i = 0; i < values.size(); ++i) store_float(*bytes, dtype, i, values[i]);
  return {.format = Format::dense(dtype),
          .out = rows,
          .in = cols,
          .codes = *bytes,
          .scales = {},
          .biases = {},
          .name = name,
          .keep = bytes};
}

class Packer {
 public:
  Packer(const Adapter& adapter, Backend& backend, const std::function<void(uint64_t)>& add)
      : adapter_(adapter), backend_(backend), add_(add) {}

  LoraEntry pack(const std::string& path, const ModuleDelta& change, const nn::TargetModule& module,
                 const Weight& base) const {
    LoraEntry entry;
    if (module.kind == nn::TargetModule::Kind::norm) {
      if (!change.weight) return entry;
      std::vector<float> values(change.weight->values.begin(), change.weight->values.end());
      for (float& v : values) v += module.offset;
      entry.norm = vector(path, values);
      return entry;
    }
    if (change.weight) {
      const DType dtype = narrowest(change.weight->values);
      add_(change.weight->values.size() * size_t(size_of(dtype)));
      entry.weight = backend_.pack(dense(path, change.weight->values, change.weight->rows, change.weight->cols, dtype));
    }
    if (change.bias) entry.bias = vector(path, *change.bias);
    if (!change.low_rank) return entry;
    const LowRank& low = *change.low_rank;
    const bool embedding = module.kind == nn::TargetModule::Kind::embedding;
    if (!low.magnitude.empty()) {
      entry.dora_scale = dora_scale(path, low, embedding, entry.weight ? entry.weight : base);
      entry.dora_scale_by_token = embedding && adapter_.dialect == Dialect::mlx;
    }
    add_term(entry.terms, view(low), low.a.cols, low.b.rows, embedding ? LowRankUse::embedding : LowRankUse::linear);
    return entry;
  }

  LoraEntry pack_experts(std::span<const FactorView> experts, const nn::TargetModule& module) const {
    LoraEntry entry;
    std::vector<std::vector<LoraEntry::Term>> terms(experts.size());
    bool any = false;
    for (size_t e = 0; e < experts.size(); ++e) {
      if (experts[e].rank > 0) add_term(terms[e], experts[e], module.in, module.out, LowRankUse::linear);
      any = any || !terms[e].empty();
    }
    if (any) entry.experts = std::move(terms);
    return entry;
  }

 private:
  void add_term(std::vector<LoraEntry::Term>& to, const FactorView& from, int in, int out, LowRankUse use) const {
    if (adds_nothing(from)) return;
    LowRankWeights factors = backend_.pack_factors(
        {.rank = from.rank, .in = in, .out = out, .a = from.a, .b = from.b, .bias = from.bias}, use);
    add_(factors.packed->bytes());
    to.push_back({std::move(factors), from.scale});
  }

  Tensor vector(const std::string& path, std::span<const float> values) const {
    add_(values.size() * sizeof(float));
    return backend_.pack_vector(dense(path, values, 1, int(values.size()), DType::f32));
  }

  /// An embedding's table is W [vocab, dims], hence ΔW = (B A)ᵀ; PEFT's magnitude is then one of columns.
  Tensor dora_scale(const std::string& path, const LowRank& low, bool embedding, const Weight& w) const {
    const Matrix a = embedding ? transposed(low.b) : Matrix{}, b = embedding ? transposed(low.a) : Matrix{};
    const HostLowRank factors = {.rank = low.rank(),
                                 .in = embedding ? low.b.rows : low.a.cols,
                                 .out = embedding ? low.a.cols : low.b.rows,
                                 .a = embedding ? a.values : low.a.values,
                                 .b = embedding ? b.values : low.b.values,
                                 .bias = {}};
    add_(low.magnitude.size() * sizeof(float));
    Tensor factor =
        backend_.dora_scale(w, factors, low.scale, low.magnitude, embedding && adapter_.dialect == Dialect::peft);
    std::vector<float> values(low.magnitude.size());
    backend_.read(factor, values);
    for (size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) {
        throw Error(ErrorCode::bad_file, adapter_.where.empty() ? adapter_.name : adapter_.where,
                    cat("module '", path, "': DoRA divides by the length of row ", i,
                        " of W + scale·B A: expected a finite quotient, got ", values[i]));
      }
    }
    return factor;
  }

  const Adapter& adapter_;
  Backend& backend_;
  const std::function<void(uint64_t)>& add_;
};

}  // namespace

void require_operations(const BoundAdapter& bound, const Backend& backend) {
  const auto require = [&](bool needed, const char* what, Operation operation) {
    if (!needed || backend.has(operation)) return;
    throw Error(ErrorCode::device, bound.adapter->where.empty() ? bound.adapter->name : bound.adapter->where,
                cat("adapter '", bound.adapter->name, "' changes ", what, ": operation ", name_of(operation),
                    " is not available on device '", backend.name(), "'"));
  };
  require(bound.experts.size() > bound.of_heads.size(), "experts", Operation::lora_experts);
  require(!bound.of_heads.empty(), "kv_b_proj", Operation::lora_heads);
}

std::shared_ptr<const PackedAdapter> pack_adapter(const Adapter& adapter, Backend& backend, const nn::Model& model,
                                                  const std::string& base, const ByteCounter& counter,
                                                  const std::function<void(uint64_t)>& make_room) {
  const BoundAdapter bound = bind_to_base(
      adapter, {.target_modules = model.target_modules(), .tied_head = model.dims().tied_head, .name = base});
  require_operations(bound, backend);
  auto made = std::make_shared<PackedAdapter>(adapter.id, adapter.name, CountedBytes(counter, 0));
  const std::function<void(uint64_t)> add = [&](uint64_t bytes) {
    make_room(bytes);
    made->bytes_.add(bytes);
  };
  const Packer packer(adapter, backend, add);
  for (size_t i = 0; i < model.target_modules().size(); ++i) {
    const nn::TargetModule& module = model.target_modules()[i];
    LoraEntry entry;
    if (const auto found = bound.modules.find(module.name); found != bound.modules.end())
      entry = packer.pack(found->first, *found->second, module, model.target_weights()[i]);
    if (const auto found = bound.experts.find(module.name); found != bound.experts.end())
      entry = packer.pack_experts(found->second, module);
    if (!entry.empty()) made->entries_.emplace(int(i), std::move(entry));
  }
  return made;
}

}  // namespace bumblebee::lora
