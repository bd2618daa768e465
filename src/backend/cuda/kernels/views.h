// What kernels see of weights, of the bound batch and of adapters' slots: plain structs of device pointers, shared by
// host and device code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/kernels/unpack.h"

namespace bumblebee::cuda {

enum class Element : int32_t { f32, f16, bf16, i8 };
/// Format::Codes.
enum class Code : int32_t { uint, e2m1, e4m3 };

/// W [out, in] as MLX stores it. bits 0: dense, and `codes` are elements of type `scale`. Groups of float codes have
/// scales of bf16, which holds those of one byte exactly, and no biases.
struct WeightView {
  const uint8_t* codes = nullptr;
  const void* scales = nullptr;
  const void* biases = nullptr;
  size_t row_bytes = 0;  // of codes
  int32_t out = 0, in = 0;
  int32_t bits = 0, group = 0;
  /// Scales, and biases, from a row to the next one: in / group, but in stacks, whose rows of them begin at multiples
  /// of 16 bytes, with zeros at their ends.
  int32_t scale_row = 0;
  Element scale = Element::f32, bias = Element::f32;
  Code code = Code::uint;
  const float* factors = nullptr;  // of all scales of each expert's matrix; null: one
  const float* units = nullptr;    // of rows, for products of many (matmul_wide.h); null: it has none
};

/// Ranks in steps of eight: what one load of 16-bit factors holds.
inline constexpr int kRankOctet = 8;
BB_BOTH constexpr int padded_rank(int rank) { return (rank + kRankOctet - 1) / kRankOctet * kRankOctet; }
/// Sums of A x are formed in pieces of so many inputs (low_rank.cuh).
inline constexpr int kPieceInputs = 1024;
BB_BOTH constexpr int pieces_of(int in) { return (in + kPieceInputs - 1) / kPieceInputs; }

/// One A [rank, in] and B [out, rank] pair. A is stored as it is for linears and as [in, rank] for embeddings; B as
/// [out, padded_rank], with zeros at the end of a row.
struct LowRankView {
  const void* a = nullptr;
  const void* b = nullptr;
  const float* bias = nullptr;  // [out], or null
  int32_t rank = 0;
  float scale = 0;
  Element element = Element::f32;
};

/// The terms of one expert of a stack.
struct ExpertTermsView {
  const LowRankView* term = nullptr;
  int64_t terms = 0;
};

/// What a slot does to one module; `present` 0: nothing.
struct SiteView {
  int32_t present = 0, before_bias = 0, terms = 0, dora_by_token = 0;
  const LowRankView* term = nullptr;
  LowRankView first = {};  // term[0], one load nearer
  const float* dora_scale = nullptr;
  const float* bias = nullptr;
  const float* norm = nullptr;
  WeightView weight = {};  // codes null: none
  const ExpertTermsView* experts = nullptr;
  int64_t expert_count = 0;  // 0: the module is no stack
};

struct SlotView {
  const SiteView* sites = nullptr;
  int64_t count = 0;
};

/// Batch::sample and its draw, as plain numbers.
struct SampleView {
  double top_p = 1, min_p = 0;
  uint64_t seed = 0, draw = 0;
  float temperature = 1;
  int32_t mode = 0, logprob = 0, top_logprobs = 0, top_k = 0, forced = -1;
  int32_t first_change = 0, changes = 0;
};

struct ChangeView {
  int32_t token = 0;
  float add = 0, penalty = 1, subtract = 0;
};

/// Slots by number; at one address for as long as the stream lives, since replayed steps keep their arguments.
struct SlotTableView {
  const SlotView* slots = nullptr;
  int64_t count = 0;
};

/// What of a batch has no fixed place: at the start of its region.
struct RegionHeader {
  int64_t changes_at = 0;                     // bytes from the region's start
  int32_t state_count = 0, covered_rows = 0;  // of BatchView::states; rows that are not padding
};

/// Rows of one sequence that follow each other in the batch, and where recurrent layers find what they kept of it
/// (null: nothing, it begins) and leave it.
struct StateView {
  const float* from = nullptr;
  float* to = nullptr;
  int32_t first = 0, rows = 0;
};

/// Rows of one sequence that follow each other in the batch.
struct SegmentView {
  int32_t first = 0, rows = 0, past = 0, first_page = 0;
};

/// The bound batch on the device (batch_region.h).
struct BatchView {
  const RegionHeader* header = nullptr;
  const SlotTableView* slots = nullptr;
  int32_t* tokens = nullptr;              // [rows]
  const int32_t* positions = nullptr;     // [rows]
  const int32_t* slot = nullptr;          // [rows]
  const int32_t* cached = nullptr;        // [rows] place in the row's sequence; -1: padding
  const int32_t* first_page = nullptr;    // [rows] of the row's sequence, in `pages`
  const int32_t* stretched = nullptr;     // [rows] Segment::stretched
  const int32_t* logit_rows = nullptr;    // [logit_rows]
  const SampleView* sample = nullptr;     // [logit_rows], or null: nobody asks
  const uint8_t* const* pages = nullptr;  // addresses
  int32_t rows = 0, logit_row_count = 0;
  // Of steps that are not recorded: segments of several rows, and the rows of the others. In exact precision no segment
  // is named.
  const SegmentView* segments = nullptr;
  const int32_t* lone_rows = nullptr;
  int32_t segment_count = 0, lone_row_count = 0;
  /// No two rows are of one sequence: none reads what another one of this step writes. The same in all steps of a
  /// recorded one.
  bool alone = false;
  // Of models with recurrent layers. The header says how many there are; `state_slots` are that many and the padding at
  // least, and no segment has more rows than `longest_segment`: both are the same in all steps of a recorded one's key.
  const StateView* states = nullptr;
  int32_t state_slots = 0, longest_segment = 0;
};

/// The widest heads that kernels take.
inline constexpr int kMaxHeadDim = 1280;

/// One layer of a cache's pages: [K, V][kv_head]{ elements [page_size, head_dim], i8: f32 scales [page_size] }. Where
/// values lie within keys there is K alone, and its scales are [2, page_size]: of values, and of the rest.
struct KvView {
  Element element = Element::f32;
  int32_t page_size = 0, kv_heads = 0, head_dim = 0;
  size_t head_bytes = 0;  // of one head's keys or values in one page
  size_t scales_at = 0;   // from the head's start
  size_t layer_at = 0;    // from the page's start
  int32_t value_dim = 0;  // values are so many features of keys; 0: apart, and as wide

  BB_BOTH int kept() const { return value_dim > 0 ? 1 : 2; }
  BB_BOTH int values() const { return value_dim > 0 ? value_dim : head_dim; }
};

}  // namespace bumblebee::cuda
