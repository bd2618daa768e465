// Where things lie: fragments of mma.m16n8k32 (u8 x s8), digits of activations, and how the inputs of a product are cut
// into the parts whose sums are formed one by one. Plain functions of numbers, tested without a card.
//
//   a stage    256 consecutive inputs of 16 rows of the weight (a tile): what a warp multiplies at a time
//   a block    32 consecutive inputs: one MMA
//   an octet   8 consecutive inputs: what lane 4g + t holds of a block, for rows g and g + 8 (octet t)
//   a class    stages c, c + classes, c + 2·classes, ..: what one warp multiplies
//   a slab     one stage of each class, consecutive: what is copied at a time
//   a section  two slabs, whose stages of one class are added up in ascending order
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/kernels/unpack.h"

namespace bumblebee::cuda {

inline constexpr int kStageInputs = 256;
inline constexpr int kTileRows = 16;
inline constexpr int kConsumers = 8;  // warps that multiply
inline constexpr int kMaxClasses = 8;

/// Slot 4t + j of an MMA's 32 holds even code j of octet t, slot 16 + 4t + j the odd one.
BB_BOTH int input_of_slot(int slot) { return (slot % 16) / 4 * 8 + slot % 4 * 2 + slot / 16; }

/// A slab's codes lie in shared memory as the tensor copies of sm_90 put them: columns of 128 bytes of eight rows (half
/// a tile) each, [half][column][row], whose 16-byte pieces are swapped by row, so that eight rows at the same place
/// fall to different banks.
inline constexpr int kColumnBytes = 128, kHalfColumn = 8 * kColumnBytes;
BB_BOTH constexpr int columns_of_slab(int bits, int classes) {
  return (classes * 32 * bits + kColumnBytes - 1) / kColumnBytes;
}
/// Byte `byte` of row `row` (of eight) of a half.
BB_BOTH constexpr uint32_t slab_offset(uint32_t row, uint32_t byte) {
  return byte / kColumnBytes * kHalfColumn + row * kColumnBytes + ((byte % kColumnBytes / 16) ^ row) * 16 + byte % 16;
}

/// Bytes of digits before those of octet `octet` of block `block`, when `columns` digits of all rows are kept:
/// [block / 2][column][octet][block % 2]{4 even, 4 odd}. Columns 2r and 2r + 1 are high and low digits of row r.
BB_BOTH size_t digit_offset(int block, int columns, int column, int octet) {
  return ((size_t(block / 2) * size_t(columns) + size_t(column)) * 4 + size_t(octet)) * 16 + size_t(block % 2) * 8;
}

BB_BOTH constexpr int stages_of(int in) { return (in + kStageInputs - 1) / kStageInputs; }

/// A function of `in` alone, so that the order of sums is too: the largest power of two up to 8 that gives every class
/// a stage. Sums of classes are added as a binary tree, ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), in every section,
/// and sections in ascending order.
BB_BOTH constexpr int classes_of(int in) {
  int classes = 1;
  while (classes < kMaxClasses && classes * 2 <= stages_of(in)) classes *= 2;
  return classes;
}
inline constexpr int kSectionSlabs = 2;
BB_BOTH constexpr int slabs_of(int in) { return (stages_of(in) + classes_of(in) - 1) / classes_of(in); }
BB_BOTH constexpr int sections_of(int in) { return (slabs_of(in) + kSectionSlabs - 1) / kSectionSlabs; }

}  // namespace bumblebee::cuda
