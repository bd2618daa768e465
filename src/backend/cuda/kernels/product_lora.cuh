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

/// Pieces of A that a block may hold in shared memory: all of one row's, at the ranks that are usual.
inline constexpr int kHeldPieces = 2;

/// In shared memory.
struct LoraShared {
  LoraRow* row;         // [rows, terms]
  float* inverse;       // [rows] of the norm, where the stage rounds x itself
  float* u;             // [rows, terms, ranks]
  __nv_bfloat16* held;  // [kHeldPieces, kPieceInputs] of A
  float* sums;          // [kHeldPieces, kLaneOctets] of their products with x
  __nv_bfloat16* ring;  // [2]{ B of the tiles of a unit: [tile, half, row, 8, ranks] }; or null
};
BB_BOTH constexpr int lora_inverse_bytes(int rows) { return (rows + 3) / 4 * 16; }
BB_BOTH constexpr int lora_held_bytes(int rows) {
  return rows == 1 ? kHeldPieces * (kPieceInputs * 2 + kLaneOctets * 4) : 0;
}
/// All but the ring.
BB_BOTH constexpr int64_t lora_shared_bytes(int rows, int terms, int ranks) {
  return int64_t(rows) * terms * (int64_t(sizeof(LoraRow)) + ranks * 4) + lora_inverse_bytes(rows) +
         lora_held_bytes(rows);
}
/// Of one of the ring's two units.
BB_BOTH constexpr int64_t lora_unit_bytes(int tiles, int rows, int ranks) {
  return int64_t(tiles) * kTileRows * rows * ranks * 2;
}
__device__ __forceinline__ LoraShared lora_shared(const ProductArgs& a, const SharedPlan& plan, uint8_t* shared) {
  LoraShared s;
  uint8_t* at = shared + plan.lora;
  s.row = reinterpret_cast<LoraRow*>(at);
  at += a.rows * a.terms * int(sizeof(LoraRow));
  s.inverse = reinterpret_cast<float*>(at);
  at += lora_inverse_bytes(a.rows);
  s.u = reinterpret_cast<float*>(at);
  at += a.rows * a.terms * a.lora.ranks * 4;
  s.held = reinterpret_cast<__nv_bfloat16*>(at);
  s.sums = reinterpret_cast<float*>(at + kHeldPieces * kPieceInputs * 2);
  s.ring = plan.ring != 0 ? reinterpret_cast<__nv_bfloat16*>(shared + plan.ring) : nullptr;
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
/// Whether pieces of A are held, and multiplied by the threads that round x.
__device__ __forceinline__ bool holds_pieces(const ProductArgs& a) {
  return a.rows == 1 && a.parts == 1 && a.input.kind != StageInput::Kind::digits &&
         count_items(a) <= kHeldPieces * int(gridDim.x);
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

/// Asks for B of unit `unit` of this block; lanes share its octets.
__device__ __noinline__ inline void copy_factors(const ProductArgs& a, LoraShared s, __nv_bfloat16* to, int unit,
                                                 int part, uint32_t lane) {
  const int tiles = kConsumers >> a.width_bits, ranks = a.lora.ranks;
  if (unit < a.units) {
    int chunk = int(lane), row = 0, half = 0;  // chunk: eight rows of B, each of ranks / 8 octets
#pragma unroll 1
    for (int i = int(lane); i < tiles * 2 * a.rows * ranks; i += 32, chunk += 32) {
      for (; chunk >= ranks; chunk -= ranks)
        if (++row == a.rows) row = 0, ++half;
      const int tile = half / 2, place = chunk % 8, rank = chunk / 8 * kRankOctet;
      if ((tile & (a.parts - 1)) != part) continue;
      const TileHalf of = half_of_tile(a, unit * tiles + tile, half % 2);
      const LoraRow& entry = s.row[row * a.terms + of.term];
      if (entry.site == nullptr || place >= of.left || rank >= entry.padded) continue;
      copy_async_small<16>(shared_address(to + ((half * a.rows + row) * 8 + place) * ranks + rank),
                           entry.b + int64_t(of.row + place) * entry.padded + rank, 16);
    }
  }
  copy_async_commit();
}

/// B of the units of a block, one after the other, each asked for two units ahead.
struct FactorRing {
  __nv_bfloat16* at[2];
  __device__ __forceinline__ FactorRing(const ProductArgs& a, const LoraShared& s) {
    const int64_t elements = lora_unit_bytes(kConsumers >> a.width_bits, a.rows, a.lora.ranks) / 2;
    at[0] = s.ring;
    at[1] = s.ring != nullptr ? s.ring + elements : nullptr;
  }
};

/// Looks slots up and asks for the first factors that this block will want.
__device__ __noinline__ inline void open_lora(const ProductArgs& a, LoraShared s, int part, int first_unit, int stride,
                                              uint32_t lane) {
  find_rows(a, s, lane);
  constexpr int kLine = 128;
  if (a.input.kind != StageInput::Kind::digits) {
    const int count = count_items(a);
    const bool held = holds_pieces(a);
    for (int i = int(blockIdx.x), n = 0; i < count; i += int(gridDim.x), ++n) {
      const LoraItem item = item_of(a, i);
      const __nv_bfloat16* from = factors_of(a, s, item);
      const int inputs = min(kPieceInputs, a.in - item.piece * kPieceInputs);
      if (!held) {
        if (from != nullptr && int(lane) * kLine < 2 * inputs) prefetch_l2(from + lane * (kLine / 2));
        continue;
      }
#pragma unroll
      for (int j = 0; j < kLaneOctets; ++j) {
        const int octet = int(lane) + j * kWarp;
        const bool there = from != nullptr && octet * 8 < inputs;
        copy_async_small<16>(shared_address(s.held + n * kPieceInputs + octet * 8),
                             there ? from + octet * 8 : a.term[0].codes, there ? 16 : 0);
      }
    }
  }
  if (s.ring == nullptr) {
    copy_async_commit();
    copy_async_wait<0>();
    return;
  }
  const FactorRing ring(a, s);
  copy_factors(a, s, ring.at[0], first_unit, part, lane);
  copy_factors(a, s, ring.at[1], first_unit + stride, part, lane);
  copy_async_wait<1>();
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
  const bool with_norm = a.input.kind == StageInput::Kind::rms_norm, held = holds_pieces(a);
#pragma unroll 1
  for (int i = int(blockIdx.x), n = 0; i < count; i += int(gridDim.x), ++n) {
    const LoraItem item = item_of(a, i);
    const __nv_bfloat16* from = factors_of(a, s, item);
    float sum = 0;
    if (held && from != nullptr) {
#pragma unroll
      for (int j = 0; j < kLaneOctets; ++j) sum += s.sums[n * kLaneOctets + j];
    } else if (from != nullptr) {
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
/// to the number of blocks that have pieces, then as all blocks leave, and the last one makes it zero again: whoever
/// gets true in lane 0, once it has time.
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
}

/// What a block does to the counter once it has u, and what it makes of the answer, which takes its time to come.
__device__ __forceinline__ uint32_t leave_lora(const ProductArgs& a, uint32_t lane) {
  return a.lora.ranks > 0 && a.input.kind != StageInput::Kind::digits && lane == 0 ? atomicAdd(a.lora.arrived, 1u) + 1
                                                                                   : 0;
}
__device__ __forceinline__ void close_lora(const ProductArgs& a, uint32_t left) {
  if (left != 0 && left == uint32_t(min(count_items(a), int(gridDim.x))) + gridDim.x) *a.lora.arrived = 0;
}

/// What threads that round the only row do for adapters: products with the pieces of A that are held.
struct HeldPieces {
  const __nv_bfloat16* held;
  float* sums;
  int piece[kHeldPieces];  // -1: none
  __device__ __forceinline__ HeldPieces(const ProductArgs& a, const LoraShared& s) : held(s.held), sums(s.sums) {
    const bool holds = a.lora.ranks > 0 && holds_pieces(a);
#pragma unroll
    for (int n = 0; n < kHeldPieces; ++n) {
      const int item = int(blockIdx.x) + n * int(gridDim.x);
      piece[n] = holds && item < count_items(a) ? item % pieces_of(a.in) : -1;
    }
  }
  /// The lanes of a warp have 32 octets that follow each other.
  __device__ __forceinline__ void operator()(int octet, const Eight& x) const {
#pragma unroll
    for (int n = 0; n < kHeldPieces; ++n) {
      if (octet / kPieceOctets != piece[n]) continue;
      const int at = octet % kPieceOctets;
      Bf16Octet factors;
      factors.v = *reinterpret_cast<const uint4*>(held + n * kPieceInputs + at * 8);
      const float sum = warp_sum(dot_octet(widened(factors), x, 0.0f));
      if (at % kWarp == 0) sums[n * kLaneOctets + at / kWarp] = sum;
    }
  }
};

/// An output, and where its adapters are.
struct LoraOutput {
  const LoraRow* row;      // null: nothing
  const __nv_bfloat16* b;  // of the first term
  const float* u;
  int n;
};

/// What adapters add to two outputs: Σ scale·(B u + b). Factors of both are asked for together.
__device__ __noinline__ inline float2 changes_of(LoraOutput first, LoraOutput second) {
  const LoraOutput of[2] = {first, second};
  const int padded[2] = {first.row != nullptr ? first.row->padded : 0, second.row != nullptr ? second.row->padded : 0};
  float sums[2][2] = {};  // over even and odd octets
#pragma unroll 1
  for (int i = 0; i < max(padded[0], padded[1]); i += 2 * kRankOctet) {
    Bf16Octet octets[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (i + j * kRankOctet < padded[h])
          octets[h][j].v = *reinterpret_cast<const uint4*>(of[h].b + i + j * kRankOctet);
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

/// An output of the stage: row `place` of a half of a tile; `staged`: of B of that half and row, or null.
__device__ __forceinline__ LoraOutput lora_output(const ProductArgs& a, const LoraShared& s, const TileHalf& half,
                                                  int row, int place, const __nv_bfloat16* staged) {
  const int at = row * a.terms + half.term, n = half.row + place;
  if (row >= a.rows || place >= half.left || s.row[at].site == nullptr) return {};
  return {s.row + at, staged != nullptr ? staged + place * a.lora.ranks : s.row[at].b + int64_t(n) * s.row[at].padded,
          s.u + at * a.lora.ranks, n};
}

}  // namespace bumblebee::cuda
