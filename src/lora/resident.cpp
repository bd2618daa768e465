// From the normalised adapter to a backend's packings, module by module.
#include "lora/resident.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "lora/fit.h"
#include "quant/affine.h"

namespace bumblebee::lora {
namespace {

bool all_zero(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return v == 0; });
}

bool adds_nothing(const LowRank& low) {
  const bool product = all_zero(low.a.values) || all_zero(low.b.values);
  return low.scale == 0 || (product && all_zero(low.b_bias));
}

std::vector<float> transposed(const Matrix& m) {
  std::vector<float> values(m.values.size());
  for (size_t r = 0; r < size_t(m.rows); ++r) {
    for (size_t c = 0; c < size_t(m.cols); ++c) values[c * size_t(m.rows) + r] = m.values[r * size_t(m.cols) + c];
  }
  return values;
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

  LoraEntry pack(const std::string& path, const Change& change, const nn::Site& site, const Weight& base) const {
    LoraEntry entry;
    if (site.kind == nn::Site::Kind::norm) {
      if (change.weight) entry.norm = vector(path, change.weight->values);
      return entry;
    }
    if (change.weight) {
      const DType dtype = narrowest(change.weight->values);
      add_(change.weight->values.size() * size_t(size_of(dtype)));
      entry.weight =
          backend_.prepare(dense(path, change.weight->values, change.weight->rows, change.weight->cols, dtype));
    }
    if (change.bias) entry.bias = vector(path, *change.bias);
    if (!change.low_rank) return entry;
    const LowRank& low = *change.low_rank;
    const bool embedding = site.kind == nn::Site::Kind::embedding;
    if (!low.magnitude.empty()) {
      entry.factor = dora_factor(path, low, embedding, entry.weight ? entry.weight : base);
      entry.factor_by_token = embedding && adapter_.dialect == Dialect::mlx;
    }
    if (adds_nothing(low)) return entry;
    Factors factors = backend_.prepare_factors({.rank = low.rank(),
                                                .in = low.a.cols,
                                                .out = low.b.rows,
                                                .a = low.a.values,
                                                .b = low.b.values,
                                                .bias = low.b_bias},
                                               embedding ? FactorUse::embedding : FactorUse::linear);
    add_(factors.packed->bytes());
    entry.terms.push_back({std::move(factors), low.scale});
    return entry;
  }

 private:
  Tensor vector(const std::string& path, std::span<const float> values) const {
    add_(values.size() * sizeof(float));
    return backend_.prepare_vector(dense(path, values, 1, int(values.size()), DType::f32));
  }

  /// An embedding's table is W [vocab, dims], hence ΔW = (B A)ᵀ; PEFT's magnitude is then one of columns.
  Tensor dora_factor(const std::string& path, const LowRank& low, bool embedding, const Weight& w) const {
    const std::vector<float> a = embedding ? transposed(low.b) : std::vector<float>(),
                             b = embedding ? transposed(low.a) : std::vector<float>();
    const HostFactors factors = {.rank = low.rank(),
                                 .in = embedding ? low.b.rows : low.a.cols,
                                 .out = embedding ? low.a.cols : low.b.rows,
                                 .a = embedding ? std::span<const float>(a) : low.a.values,
                                 .b = embedding ? std::span<const float>(b) : low.b.values,
                                 .bias = {}};
    add_(low.magnitude.size() * sizeof(float));
    Tensor factor =
        backend_.dora_factor(w, factors, low.scale, low.magnitude, embedding && adapter_.dialect == Dialect::peft);
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

std::shared_ptr<const Resident> make_resident(const KnownAdapter& known, Backend& backend, const nn::Model& model,
                                              const std::string& base, const std::shared_ptr<DeviceMemory>& memory,
                                              const std::function<void(uint64_t)>& make_room) {
  const Adapter fitted =
      fit(known.adapter, {.sites = model.sites(), .tied_head = model.dims().tied_head, .name = base});
  auto resident = std::make_shared<Resident>(known.id, known.adapter.name, memory);
  const std::function<void(uint64_t)> add = [&](uint64_t bytes) {
    make_room(bytes);
    resident->bytes_ += bytes;
    memory->used.fetch_add(bytes, std::memory_order_relaxed);
  };
  const Packer packer(fitted, backend, add);
  for (size_t i = 0; i < model.sites().size(); ++i) {
    const nn::Site& site = model.sites()[i];
    const auto found = fitted.modules.find(site.name);
    if (found == fitted.modules.end()) continue;
    LoraEntry entry = packer.pack(found->first, found->second, site, model.site_weights()[i]);
    if (entry.terms.empty() && !entry.factor && !entry.weight && !entry.bias && !entry.norm) continue;
    resident->entries_.emplace(int(i), std::move(entry));
  }
  return resident;
}

}  // namespace bumblebee::lora
