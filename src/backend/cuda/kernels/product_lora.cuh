// Adapters within a product (product.h, StageLora): work of the ninth warp, which has nothing else to do while the
// first sums are formed. Blocks share the pieces of u = A x among them, wait for each other's, and add B u to the tiles
// that they write. Sums have the order of low_rank.cuh. What does not depend on x (slots, addresses, factors into L2)
// is done before the kernel waits for it.
#pragma once

#include "backend/cuda/kernels/low_rank.cuh"
#include "backend/cuda/kernels/product_copy.cuh"

namespace bumblebee::cuda {

/// What the slot of a row does to a term of the stage.
struct LoraRow {
  const __nv_bfloat16 *a, *b;  // of the slot's first term, like all that follows
  const float* bias;
  const SiteView* site;  // null: nothing
  float scale;
  int32_t rank, padded, terms;
};
static_assert(sizeof(LoraRow) % 16 == 0);

/// In shared memory.
struct LoraShared {
  LoraRow* row;    // [rows, terms]
  float* inverse;  // [rows] of the norm, where the stage rounds x itself
  float* u;        // [rows, terms, ranks]
};
BB_BOTH constexpr int lora_inverse_bytes(int rows) { return (rows + 3) / 4 * 16; }
BB_BOTH constexpr int64_t lora_shared_bytes(int rows, int terms, int ranks) {
  return int64_t(rows) * terms * (int64_t(sizeof(LoraRow)) + ranks * 4) + lora_inverse_bytes(rows);
}
__device__ __forceinline__ LoraShared lora_shared(const ProductArgs& a, uint8_t* at) {
  LoraShared s;
  s.row = reinterpret_cast<LoraRow*>(at);
  at += a.rows * a.terms * int(sizeof(LoraRow));
  s.inverse = reinterpret_cast<float*>(at);
  s.u = reinterpret_cast<float*>(at + lora_inverse_bytes(a.rows));
  return s;
}

__device__ __forceinline__ const SiteView* site_of_row(const StageLora& lora, int row, int term) {
  row += lora.first_row;
  return site_of(*lora.slots, lora.slot[lora.logit_rows != nullptr ? lora.logit_rows[row] : row], lora.site[term]);
}

/// A piece of one rank of one row, for one term. Items are dealt to blocks in turns; those that no slot has are zeros.
struct LoraItem {
  int entry, place, piece;  // entry: row·terms + term; place: among its ranks
};
__device__ __forceinline__ LoraItem item_of(const ProductArgs& a, int item) {
  const int pieces = pieces_of(a.in), place = item / pieces;
  return {place / a.lora.ranks, place % a.lora.ranks, item % pieces};
}
__device__ __forceinline__ int count_items(const ProductArgs& a) {
  return a.rows * a.terms * a.lora.ranks * pieces_of(a.in);
}
/// Null where no slot has it.
__device__ __forceinline__ const __nv_bfloat16* factors_of(const ProductArgs& a, const LoraShared& s,
                                                           const LoraItem& item) {
  const LoraRow& row = s.row[item.entry];
  if (row.site == nullptr) return nullptr;
  const __nv_bfloat16* from = row.a;
  int rank = item.place;
  if (rank >= row.rank) {
    if (rank < row.padded || row.terms == 1) return nullptr;
    const RankPlace place = place_of_rank(*row.site, rank);
    if (!place.exists()) return nullptr;
    from = static_cast<const __nv_bfloat16*>(place.term->a);
    rank = place.rank;
  }
  return from + int64_t(rank) * a.in + item.piece * kPieceInputs;
}

/// Fills the table of slots. A row's loads depend on each other, so those of its terms go together.
__device__ __forceinline__ void find_rows(const ProductArgs& a, const LoraShared& s, uint32_t lane) {
  const StageLora& lora = a.lora;
  for (int row = int(lane); row < a.rows; row += 32) {
    const int at = row + lora.first_row;
    const int slot = lora.slot[lora.logit_rows != nullptr ? lora.logit_rows[at] : at];
    const SlotTableView table = *lora.slots;
    const SlotView view = slot >= 0 && slot < table.count ? table.slots[slot] : SlotView();
    LoraRow found[kStageTerms] = {};
#pragma unroll
    for (int term = 0; term < kStageTerms; ++term) {
      if (term >= a.terms || lora.site[term] < 0 || lora.site[term] >= view.count) continue;
      const SiteView* site = view.sites + lora.site[term];
      const LowRankView first = site->first;
      const int terms = site->present != 0 ? site->terms : 0;
      found[term] = {static_cast<const __nv_bfloat16*>(first.a),
                     static_cast<const __nv_bfloat16*>(first.b),
                     first.bias,
                     terms > 0 ? site : nullptr,
                     first.scale,
                     first.rank,
                     padded_rank(first.rank),
                     terms};
    }
#pragma unroll
    for (int term = 0; term < kStageTerms; ++term)
      if (term < a.terms) s.row[row * a.terms + term] = found[term];
  }
  __syncwarp();
}

/// Looks slots up and asks for the factors that this block will want.
__device__ __noinline__ inline void open_lora(const ProductArgs& a, LoraShared s, int part, int first_unit, int stride,
                                       uint32_t lane) {
  find_rows(a, s, lane);
  constexpr int kLine = 128;
  if (a.input.kind != StageInput::Kind::digits) {
    const int count = count_items(a);
    for (int i = int(blockIdx.x); i < count; i += int(gridDim.x)) {
      const LoraItem item = item_of(a, i);
      const __nv_bfloat16* from = factors_of(a, s, item);
      const int bytes = 2 * min(kPieceInputs, a.in - item.piece * kPieceInputs);
      if (from != nullptr && int(lane) * kLine < bytes) prefetch_l2(from + lane * (kLine / 2));
    }
  }
  const int tiles = kConsumers >> a.width_bits, units = (a.units - first_unit + stride - 1) / stride;
  for (int i = int(lane); i < units * tiles * a.rows * 2; i += 32) {
    const int row = i / 2 % a.rows, unit = i / 2 / a.rows;
    const int tile = unit & (tiles - 1), at = (first_unit + unit / tiles * stride) * tiles + tile;
    if ((tile & (a.parts - 1)) != part && a.parts > 1) continue;
    const TileHalf half = half_of_tile(a, at, i % 2);
    const LoraRow& entry = s.row[row * a.terms + half.term];
    if (entry.site == nullptr || half.left <= 0) continue;
    const char* from = reinterpret_cast<const char*>(entry.b + int64_t(half.row) * entry.padded);
    const int bytes = min(half.left, 8) * entry.padded * 2;
    for (int at_byte = 0; at_byte < bytes; at_byte += kLine) prefetch_l2(from + at_byte);
  }
}

/// Keeps what the norm multiplies rows by, before `scratch` (round_rows) becomes sums.
__device__ __forceinline__ void keep_norms(const ProductArgs& a, const LoraShared& s, const float* scratch,
                                           uint32_t lane) {
  if (a.input.kind == StageInput::Kind::rms_norm && int(lane) < a.rows)
    s.inverse[lane] = inverse_rms(scratch + lane * (kRoundThreads / 32), a.in, a.input.eps);
  __syncwarp();
}

/// This block's pieces of u, for all to see.
__device__ __noinline__ inline void shrink_items(const ProductArgs& a, LoraShared s, uint32_t lane) {
  const int count = count_items(a);
  if (int(blockIdx.x) >= count) return;
  const bool with_norm = a.input.kind == StageInput::Kind::rms_norm;
#pragma unroll 1
  for (int i = int(blockIdx.x); i < count; i += int(gridDim.x)) {
    const LoraItem item = item_of(a, i);
    const __nv_bfloat16* from = factors_of(a, s, item);
    float sum = 0;
    if (from != nullptr) {
      const int row = item.entry / a.terms, first = item.piece * kPieceInputs;
      const float* x = a.input.x + int64_t(row) * a.in + first;
      const float inverse = with_norm ? s.inverse[row] : 1.0f;
      sum = dot_piece<Bf16Octet>(
          min(kPieceInputs, a.in - first) / 8, int(lane),
          [&](int octet, Bf16Octet& to) { load_octet(from + octet * 8, to); },
          [&](int octet) {
            const Eight v = load_eight(x + octet * 8);
            return with_norm ? scaled(v, a.input.norm, inverse, first + octet * 8) : v;
          });
    }
    if (lane == 0) __stcg(a.lora.u + i, sum);
  }
  if (lane == 0) raise_counter(a.lora.arrived);
}

/// u of all rows, once all blocks have published their pieces; quantize_and_shrink leaves whole sums. The counter rises
/// to the number of blocks that have pieces, then as all blocks leave, and the last one makes it zero again.
__device__ __noinline__ inline void take_u(const ProductArgs& a, LoraShared s, uint32_t lane) {
  const int places = a.rows * a.terms * a.lora.ranks;
  if (a.input.kind == StageInput::Kind::digits) {
#pragma unroll 4
    for (int i = int(lane); i < places / 4; i += 32)
      reinterpret_cast<float4*>(s.u)[i] = __ldcg(reinterpret_cast<const float4*>(a.lora.u) + i);
    __syncwarp();
    return;
  }
  const int pieces = pieces_of(a.in);
  const uint32_t blocks = uint32_t(min(count_items(a), int(gridDim.x)));
  wait_counter(a.lora.arrived, blocks);
  __syncwarp();
#pragma unroll 1
  for (int i = int(lane); i < places; i += 64) {  // two at a time, for their loads to be under way together
    const int other = i + 32 < places ? i + 32 : i;
    const float *from = a.lora.u + i * pieces, *from_other = a.lora.u + other * pieces;
    float sum = 0, sum_other = 0;
#pragma unroll 4
    for (int piece = 0; piece < pieces; ++piece) {
      sum += __ldcg(from + piece);
      sum_other += __ldcg(from_other + piece);
    }
    s.u[i] = sum;
    s.u[other] = sum_other;
  }
  __syncwarp();
  if (lane == 0 && atomicAdd(a.lora.arrived, 1u) + 1 == blocks + gridDim.x) *a.lora.arrived = 0;
}

/// An output, and where its adapters are.
struct LoraOutput {
  const LoraRow* row;  // null: nothing
  const float* u;
  int n;
};

/// What adapters add to two outputs: Σ scale·(B u + b). Factors of both are asked for together.
__device__ __noinline__ inline float2 changes_of(LoraOutput first, LoraOutput second) {
  const LoraOutput of[2] = {first, second};
  const __nv_bfloat16* b[2];
  int padded[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    padded[h] = of[h].row != nullptr ? of[h].row->padded : 0;
    b[h] = of[h].row != nullptr ? of[h].row->b + int64_t(of[h].n) * padded[h] : nullptr;
  }
  float sums[2][2] = {};  // over even and odd octets
#pragma unroll 1
  for (int i = 0; i < max(padded[0], padded[1]); i += 2 * kRankOctet) {
    Bf16Octet octets[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (i + j * kRankOctet < padded[h]) load_octet(b[h] + i + j * kRankOctet, octets[h][j]);
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (i + j * kRankOctet < padded[h])
          sums[h][j] = dot_octet(widened(octets[h][j]), octet_of_u(of[h].u + i + j * kRankOctet), sums[h][j]);
  }
  float changes[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (of[h].row == nullptr) continue;
    const LoraRow& row = *of[h].row;
    const float sum = sums[h][0] + sums[h][1];
    changes[h] = fmaf(row.scale, row.bias != nullptr ? sum + __ldg(row.bias + of[h].n) : sum, 0.0f);
    if (row.terms > 1) changes[h] = add_terms(*row.site, 1, of[h].n, of[h].u + row.padded, changes[h]);
  }
  return {changes[0], changes[1]};
}

/// An output of the stage; `there`: it exists.
__device__ __forceinline__ LoraOutput lora_output(const ProductArgs& a, const LoraShared& s, int row, int term, int n,
                                                  bool there) {
  const int at = row * a.terms + term;
  return {there && s.row[at].site != nullptr ? s.row + at : nullptr, s.u + at * a.lora.ranks, n};
}

}  // namespace bumblebee::cuda
