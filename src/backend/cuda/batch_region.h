// A batch as one block of bytes: what bind() copies to the device at once. Small batches have one layout, whatever they
// hold, so that a replayed step finds everything where the recorded one did. Knows no CUDA.
#pragma once

#include <cstddef>
#include <span>

#include "backend/batch.h"
#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

/// Steps of at most so many rows are recorded, and padded to a bucket.
inline constexpr int kRecordedRows = 32;
/// So are those of up to so many whose rows are alone: more than kRecordedRows, which take kernels whose tiles have as
/// many rows as this, are padded to it.
inline constexpr int kRecordedAlone = 64;

/// How many rows a step of `rows` is padded to. `alone`: such steps of more than kRecordedRows too.
int bucket_of(int rows, bool alone);

/// Byte offsets of BatchView's arrays; of small batches `changes` alone depends on the number of pages.
struct RegionLayout {
  size_t tokens = 0, positions = 0, slot = 0, cached = 0, first_page = 0, stretched = 0, logit_rows = 0, sample = 0;
  size_t states = 0, pages = 0, changes = 0, segments = 0, lone_rows = 0, bytes = 0;
};
RegionLayout plan_region(const Batch& batch);

/// `pages`: addresses of batch.pages, on the device. `states`: those of the segments, or none. `out` has layout.bytes.
void fill_region(const Batch& batch, const RegionLayout& layout, std::span<const uint8_t* const> pages,
                 std::span<const StateView> states, std::span<std::byte> out);

/// The arrays of a region that lies at `base` on the device.
BatchView view_region(const Batch& batch, const RegionLayout& layout, std::byte* base, const SlotTableView* slots);

}  // namespace bumblebee::cuda
