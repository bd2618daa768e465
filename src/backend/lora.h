// What adapters do to modules, as a backend sees it. Rows of a batch name a slot; a slot is a set of adapters composed
// for one request, and a table says what each slot does to one module. Nothing here knows files, names or policies.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/weight.h"
#include "tensor/tensor.h"

namespace bumblebee {

/// Low-rank factors in a backend's own layout. Private to it, never written to disk.
class PackedFactors {
 public:
  virtual ~PackedFactors() = default;
  virtual size_t bytes() const = 0;
};

/// A [rank, in] and B [out, rank] on one backend, with the bias inside the term, [out] or none. A handle; cheap to
/// copy.
struct Factors {
  int rank = 0, in = 0, out = 0;
  std::shared_ptr<const PackedFactors> packed;
  explicit operator bool() const { return packed != nullptr; }
};

/// The same on the host, f32, row-major.
struct HostFactors {
  int rank = 0, in = 0, out = 0;
  std::span<const float> a, b;  // [rank, in] [out, rank]
  std::span<const float> bias;  // [out] or empty
};

/// linear: A x is a product. embedding: A x is a column of A, that of a token (`in` is the vocabulary).
enum class FactorUse : uint8_t { linear, embedding };

/// What one slot does to one module. Parts that are empty leave the module as it is.
///  linear:    y = factor ∘ (W x + Σ scale·(B(A x) + b)) + bias, with the slot's own W and bias where it has them
///  embedding: the same for a row of the table, without a bias
///  norm:      `norm` in place of the norm's weight
struct LoraEntry {
  struct Term {
    Factors factors;
    float scale = 0;
  };
  std::vector<Term> terms;  // added in this order
  Tensor factor;            // DoRA's m/|W + ΔW|: f32 [1, out]; embedding: by token when `factor_by_token`
  bool factor_by_token = false;
  Weight weight;  // in place of the module's; an embedding's is a table [vocab, dims]
  Tensor bias;    // f32 [1, out], in place of the module's
  Tensor norm;    // f32 [1, size]

  /// Whether the module's own bias must not be in y yet when the entry is applied.
  bool comes_before_bias() const { return factor || bias || weight; }
};

/// What each slot does to one module; null: nothing. Entries belong to whoever fills the table and stay alive for the
/// step. Slots beyond the end do nothing.
struct LoraTable {
  std::vector<const LoraEntry*> slots;
  const LoraEntry* at(int32_t slot) const {
    return slot < 0 || size_t(slot) >= slots.size() ? nullptr : slots[size_t(slot)];
  }
};

/// Which rows of the bound batch an activation holds.
enum class RowSet : uint8_t { all, wanted };

/// One module of a call that shares x. `bias` (null: none) is the module's own bias that y does not contain yet.
/// `has_weight`: y was computed with the entries' weights already, those of every row.
struct LoraModule {
  const LoraTable* table = nullptr;
  const Tensor* bias = nullptr;
  bool has_weight = false;
};

}  // namespace bumblebee
