// Products of a few rows with affine weights in MLX's own layout: y = x·Wᵀ for up to four weights that share x, at the
// speed of their bytes. x is rounded to whole numbers (digits.h); sums of codes and digits are exact, sums over groups
// are f32 in an order that the number of inputs alone decides, so a row has the same bits in any company.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/product_stage.h"

namespace bumblebee::cuda {

/// Whether a stage rounds x itself at `rows` rows (one); above that many it wants Kind::digits.
bool rounds_in_stage(int rows, bool exact);
/// The most rows of one launch for which there is shared memory on this card: a power of two, of the format and the
/// length of inputs alone. 0: not even one, so the weight is not for stages.
int rows_at_once(const ProductStage& stage);
size_t stage_workspace(const ProductStage& stage);

/// x [rows, in] f32 -> `input.rounded`; `input.kind` is plain or rms_norm.
cudaError_t quantize_rows(const StageInput& input, int rows, int in, bool exact, int at_once, cudaStream_t stream);
/// The same for tiles of several rows: x as `experts` names its rows, a block of digits for each tile.
cudaError_t quantize_experts(const StageInput& input, const StageExperts& experts, int in, cudaStream_t stream);
/// Whether a stage may have the adapters of its `lora`: one row, and not too many ranks. Its blocks wait for each
/// other, so not where another process may hold multiprocessors (MPS).
bool fits_lora(const ProductStage& stage);
/// What the slot of a row of the batch does to modules 0 .. sites - 1, for the stages of a step: `slot` as BatchView
/// has it, `row` null: the first one, else the row it names. Then makes `parts` zero, StageLora's two, by a copy
/// engine's operation, so that no kernel behind it begins early.
cudaError_t resolve_lora(const SlotTableView* slots, const int32_t* slot, const int32_t* row, int sites,
                         LoraTerm* terms, float* parts, cudaStream_t stream);
/// Whether blocks of its stage share multiprocessors, and so may not be kept apart.
bool shares_processors(const StageExperts& experts, int rows, int in);
/// Whether a stage of this format may have experts: x lies whole in a block.
bool fits_experts(const ProductStage& stage);
/// Both are launched with programmatic dependent launch: weights are asked for before the kernel before it ends, so a
/// kernel that writes weights must be followed by a kernel that does not begin early. cudaErrorInvalidValue for what
/// ProductStage does not allow. Blocks of a stage that needs a workspace wait for each other, so two such stages may
/// not run side by side on two streams.
cudaError_t launch_stage(const ProductStage& stage, cudaStream_t stream);

}  // namespace bumblebee::cuda
