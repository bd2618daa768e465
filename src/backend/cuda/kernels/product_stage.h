// A product of few rows with affine weights in MLX's own layout: what product.h launches and product_plan.h cuts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/kernels/expert_plan.h"
#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

inline constexpr int kStageTerms = 4;
inline constexpr int kStageRows = 32;

enum class ScaleType : int32_t { f16, bf16, f32 };

/// W [out, in]: planes on the device at 16-byte addresses. What follows a plane's end up to a multiple of 16 is not
/// read.
struct StageWeight {
  const void* codes = nullptr;
  const void* scales = nullptr;  // [out, in / group]
  const void* biases = nullptr;  // the same
  const float* bias = nullptr;   // [out] of the linear, or null
  float* y = nullptr;            // row r at y + r·stride
  int64_t stride = 0;
  int32_t out = 0;
};

/// x, rounded: what quantize_rows writes.
struct DigitRows {
  uint8_t* digits = nullptr;  // digit_bytes()
  void* steps = nullptr;      // step_bytes()
};

struct StageInput {
  enum class Kind : int32_t {
    digits,    // `rounded` holds x
    tiles,     // `rounded` holds x as product_rows.h wants it
    plain,     // x [1, in] f32 is rounded by each block
    rms_norm,  // and x / rms(x) · norm before that
  };
  Kind kind = Kind::plain;
  const float* x = nullptr;
  const float* norm = nullptr;  // [in], or null: all one
  float eps = 0;
  DigitRows rounded = {};
};

/// What the row's slot does to a module: what a stage wants to know of it, in one place.
struct alignas(16) LoraTerm {
  const void *a = nullptr, *b = nullptr;  // bf16, of the slot's first factors, like all that follows
  const SiteView* site = nullptr;         // null: nothing
  int32_t rank = 0, padded = 0;
  const float* bias = nullptr;
  float scale = 0;
  int32_t terms = 0;
};

/// Adapters of the only row of x: its slot adds Σ scale·(B(A x) + b) to the terms. A slot that does more than that may
/// not be in the table. Factors are bf16.
struct StageLora {
  const LoraTerm* terms = nullptr;  // of all modules: what resolve_lora() found
  int32_t site[kStageTerms] = {};   // of each term
  int32_t ranks = 0;                // the most that a slot has for one term, padded_rank() each; 0: no adapters
  /// A x by pieces, as blocks have them: kLoraParts floats each, which are zero before a stage begins. Stages that
  /// follow each other take two in turn, and each makes the other's zero.
  float *parts = nullptr, *stale = nullptr;
};
/// Floats of StageLora::parts.
inline constexpr int kLoraParts = 4096;

/// Weights are stacks of experts, and rows of x go to experts in tiles: some blocks take one tile each.
struct StageExperts {
  const ExpertTile* tile = nullptr;
  const int32_t* count = nullptr;
  const int32_t* row_of = nullptr;  // the row of x of an assignment, or null: x has a row for each
  int32_t slots = 0;                // tiles at most; 0: no experts
  int32_t experts = 0;              // of a stack
};

/// One kernel: weights of one format that share x.
struct ProductStage {
  enum class Epilogue : int32_t {
    store,     // y[t] = x·W[t]ᵀ + bias[t], and what adapters add
    add,       // y[t] = residual + the same; one term; residual may be y
    silu_mul,  // y[0] = silu(of term 0)·(of term 1); two terms with equal `out`
  };
  StageWeight term[kStageTerms] = {};
  int32_t terms = 0;
  int32_t in = 0, rows = 0;
  int32_t at_once = 0;  // rows of one launch, as in quantize_rows; 0: rows_at_once()
  int32_t bits = 4, group = 64;
  ScaleType scale = ScaleType::bf16;  // of scales and biases
  int32_t scale_row = 0;              // of them from a row to the next; 0: in / group
  bool exact = false;
  /// No two of its blocks share a multiprocessor. Where kernels overlap, a stage's blocks gather on multiprocessors
  /// that the one before has left, two of them take twice as long there, and so does every stage after. At least every
  /// other one of stages that follow each other should be apart: it leaves room for one block of the next on each.
  bool apart = false;
  Epilogue epilogue = Epilogue::store;
  const float* residual = nullptr;  // strided as y
  StageInput input;
  StageLora lora = {};
  /// `rows` are those of a tile, 1 or kFewTileRows, and outputs are rows of assignments. Of several rows the digits are
  /// as quantize_experts writes them.
  StageExperts experts = {};
  /// stage_workspace() bytes, zero before the first use. Stages of one stream may share it; it grows between steps
  /// only.
  void* workspace = nullptr;
};

/// The most stages of a chain (product_chain.h).
inline constexpr int kMostLinks = 4;

/// Bytes of DigitRows. `at_once`: rows of x are rounded in blocks of so many, as the stages that read them take them.
size_t digit_bytes(int rows, int in, bool exact, int at_once);
size_t step_bytes(int rows, int in, bool exact, int at_once);
/// Of the blocks that quantize_experts writes.
size_t expert_digit_bytes(const StageExperts& experts, int in);
size_t expert_step_bytes(const StageExperts& experts, int in);
}  // namespace bumblebee::cuda
