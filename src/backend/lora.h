// What adapters do to modules, as a backend sees it. Rows of a batch name a slot; a slot is a set of adapters composed
// for one request, and the backend's table says what each slot does to each module. Nothing here knows files, names or
// policies.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/weight.h"
#include "tensor/tensor.h"

namespace bumblebee {

/// Low-rank factors in a backend's own layout. Private to it, never written to disk.
class PackedLowRank {
 public:
  virtual ~PackedLowRank() = default;
  virtual size_t bytes() const = 0;
};

/// A [rank, in] and B [out, rank] on one backend, with the bias inside the term, [out] or none. A handle; cheap to
/// copy.
struct LowRankWeights {
  int rank = 0, in = 0, out = 0;
  std::shared_ptr<const PackedLowRank> packed;
  explicit operator bool() const { return packed != nullptr; }
};

/// The same on the host, f32, row-major.
struct HostLowRank {
  int rank = 0, in = 0, out = 0;
  std::span<const float> a, b;  // [rank, in] [out, rank]
  std::span<const float> bias;  // [out] or empty
};

/// linear: A x is a product. embedding: A x is a column of A, that of a token (`in` is the vocabulary).
enum class LowRankUse : uint8_t { linear, embedding };

/// What one slot does to one module. Parts that are empty leave the module as it is.
///  linear:    y = dora_scale ∘ (W x + Σ scale·(B(A x) + b)) + bias, with the slot's own W and bias where it has them
///  embedding: the same for a row of the table, without a bias
///  norm:      `norm` in place of the norm's weight
///  experts:   y = W[e] x + Σ scale·(B(A x) + b) over the terms of expert e, and nothing else; the same for heads
struct LoraEntry {
  struct Term {
    LowRankWeights factors;
    float scale = 0;
  };
  std::vector<Term> terms;                 // added in this order
  std::vector<std::vector<Term>> experts;  // of a stack: the terms of each expert, or head
  Tensor dora_scale;  // DoRA's m/|W + ΔW|: f32 [1, out]; embedding: by token when `dora_scale_by_token`
  bool dora_scale_by_token = false;
  Weight weight;  // in place of the module's; an embedding's is a table [vocab, dims]
  Tensor bias;    // f32 [1, out], in place of the module's
  Tensor norm;    // f32 [1, size]

  /// Whether the module's own bias must not be in y yet when the entry is applied.
  bool comes_before_bias() const { return dora_scale || bias || weight; }
  bool empty() const { return terms.empty() && experts.empty() && !dora_scale && !weight && !bias && !norm; }
};

/// All that a pass may know of the adapters of its batch, and so all that it may branch on: which modules they touch
/// and how, not which slots or adapters they are. Steps of one shape run the same operations.
struct LoraShape {
  enum : uint8_t {
    touched = 1,      // a row of the batch has an entry here
    before_bias = 2,  // one of them comes before the module's own bias
    replaced = 4,     // every row of the batch brings its own weight: the base's product is not needed
  };
  uint32_t id = 0;               // of equal shapes equal; 0: no adapters
  bool low_rank_only = true;     // no whole weights, norms, embeddings or DoRA: what every graph can replay
  std::vector<uint8_t> modules;  // [modules] of the flags above

  bool has(int site, uint8_t flag) const { return site >= 0 && (modules[size_t(site)] & flag) != 0; }
};

/// The table behind Backend::set_slot() for backends whose operations run on the host.
class SlotTable {
 public:
  void set(int32_t slot, std::span<const LoraEntry* const> by_site) {
    if (by_site.empty() && size_t(slot) >= slots_.size()) return;
    if (slots_.size() <= size_t(slot)) slots_.resize(size_t(slot) + 1);
    slots_[size_t(slot)].assign(by_site.begin(), by_site.end());
  }
  /// Null: nothing, also for a slot that was never set.
  const LoraEntry* at(int32_t slot, int site) const {
    if (slot < 0 || size_t(slot) >= slots_.size() || size_t(site) >= slots_[size_t(slot)].size()) return nullptr;
    return slots_[size_t(slot)][size_t(site)];
  }

 private:
  std::vector<std::vector<const LoraEntry*>> slots_;  // [slots][modules]
};

/// Which rows of the bound batch an activation holds.
enum class RowSet : uint8_t { all, logit_rows };

/// One module of a call that shares x. `bias` (null: none) is the module's own bias that y does not contain yet.
/// `replaced`: y is empty, every row brings its own weight (LoraShape::replaced), and lora() makes it.
struct LoraModule {
  int site = -1;
  const Tensor* bias = nullptr;
  bool replaced = false;
};

}  // namespace bumblebee
