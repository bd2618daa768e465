// Products of many rows on Hopper's tensor cores (matmul_wide.cuh): x as f16 numbers of a power of two that the row has
// for itself, codes as they are.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/matmul.h"
#include "backend/cuda/kernels/unpack.h"
#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

/// x is kept in blocks of 64 rows. Two tiles of a block have 128 columns, in the order in which codes are met: a lane
/// of a fragment has 32 that follow each other, of whose four octets the first tile takes two.
inline constexpr int kBlockRows = 64, kTileColumns = 64, kPairColumns = 2 * kTileColumns;
inline constexpr int kTileBytes = kBlockRows * kTileColumns * 2;

BB_BOTH constexpr int tiles_of(int columns) { return (columns + kPairColumns - 1) / kPairColumns * 2; }

/// x as the kernels read it.
struct WideInput {
  uint8_t* tiles = nullptr;  // [blocks of rows][tiles of in][kTileBytes]
  float* steps = nullptr;    // [blocks of rows, 64] what 1 is worth
  int rows = 0, in = 0;
};
/// Blocks of rows that are kept, those of a tile that is not full among them.
int wide_blocks(int rows);
size_t wide_bytes(int rows, int in);
/// The input in `workspace`, which has wide_bytes().
WideInput wide_input(void* workspace, int rows, int in);
/// Rows [rows, in] that are rounded, with the bits of the operation that would have made them.
struct WideRows {
  const float* x = nullptr;
  const float* norm = nullptr;  // rms_norm(x) with this weight, or null
  float eps = 0;
  const float* up = nullptr;  // silu(x)·up, or null
};
/// Of experts the input has a block of 64 rows for each tile. `blocks`: so many alone, for products that read no more;
/// 0: all that the input has.
void round_wide(const WideRows& from, const WideInput& to, cudaStream_t stream, const ExpertTiles& experts = {},
                int blocks = 0);

/// units[n] of all rows of W (of all experts): what 1 of its numbers is worth as the kernels form them, a power of two.
void fill_units(const WeightView& weight, int rows, float* units, cudaStream_t stream);

/// Adapters of rows: a tile of u = A x for each module and block of rows, and what of B the block's rows meet.
inline constexpr int kWideRanks = 32, kWideOctets = kWideRanks / kRankOctet;
struct WideFactor {
  const void* b[kWideOctets];  // the octet's columns of B's first row, or null: bf16
  int32_t pitch[kWideOctets];  // from a row of B to the next
};
struct alignas(16) WideAdapters {
  /// The slot of all of the block's rows; or one of these.
  enum : int32_t { kNone = -1, kMixed = -2, kNoRows = -3 };
  int32_t slot, count;         // distinct ones that add something
  int32_t of_row[kBlockRows];  // which of them, or -1
  int32_t slots[kBlockRows];
  WideFactor factor[kBlockRows];
};
struct WideLora {
  const uint8_t* tiles = nullptr;          // [blocks of rows][modules][kTileBytes]; null: no adapters
  const WideAdapters* adapters = nullptr;  // [blocks of rows][modules]
  int modules = 0, steps = 0;              // steps of 16 columns of a tile that are used
  bool mixed = false;                      // rows of one tile may have several slots
  int stages = 0;                          // of slots, for products of batches (matmul_batch.h)
  /// The product comes right behind shrink_wide() in its stream, and may begin while u is formed.
  bool follows = false;
};
size_t wide_lora_bytes(int rows, int modules);
/// u = A x for the modules at these sites, in `workspace`, which has wide_lora_bytes(): of the slots that is_wide()
/// (wide_site.cuh) says; `ranks`: the most that one has; `mixed`: rows have several slots. x was rounded.
WideLora shrink_wide(const WideInput& x, const int* sites, int modules, int ranks, bool logit_rows, bool mixed,
                     void* workspace, const BatchView& batch, cudaStream_t stream);

/// Whether this card and this format have the kernels below; those that have them are given units.
bool wants_units(const WeightView& weight, int experts);
bool has_matmul_wide(const WeightView& weight);
/// Whether the calling thread's card has it.
bool is_hopper();
/// All terms have one format. With adapters, term t is module t.
void matmul_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream,
                 const WideLora& lora = {});
/// The same for stacks, whose tiles have 64 rows: y [assignments, out].
void matmul_wide_experts(const WideInput& x, const ExpertTiles& tiles, const ProductTerm* terms, int count,
                         cudaStream_t stream);

}  // namespace bumblebee::cuda
