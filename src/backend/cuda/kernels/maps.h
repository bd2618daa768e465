// Where things lie: fragments of mma.m16n8k32 (u8 x s8), digits of activations, and how the inputs of a product are cut
// into the parts whose sums are formed one by one. Plain functions of numbers, tested without a card.
//
//   a stage    256 consecutive inputs of 16 rows of the weight: what a warp copies, and then multiplies
//   a block    32 consecutive inputs: one MMA
//   an octet   8 consecutive inputs: what lane 4g + t holds of a block, for rows g and g + 8 (octet t)
//   a class    consecutive stages whose products one warp adds up in ascending order
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

/// Bytes between rows of a stage in shared memory. Eight rows at the same place must fall to different banks for the
/// loads that each width makes: rows of four bits are 128 bytes, and swizzled; others are padded.
BB_BOTH constexpr int stage_pitch(int bits) { return bits == 4 ? 128 : 32 * bits + (bits == 8 ? 32 : 16); }
/// Where 16-byte chunk `chunk` of a row lies.
BB_BOTH constexpr uint32_t stage_offset(int bits, uint32_t row, uint32_t chunk) {
  return row * uint32_t(stage_pitch(bits)) + (bits == 4 ? chunk ^ (row % 8) : chunk) * 16;
}

/// Bytes of digits before those of block `block`, when `columns` digits of all rows are kept: [block][column][octet]
/// {4 even, 4 odd}. Columns 2r and 2r + 1 are high and low digits of row r.
BB_BOTH size_t digit_offset(int block, int columns, int column, int octet) {
  return ((size_t(block) * size_t(columns) + size_t(column)) * 4 + size_t(octet)) * 8;
}

BB_BOTH constexpr int stages_of(int in) { return (in + kStageInputs - 1) / kStageInputs; }

/// A function of `in` alone, so that the order of sums is too: the largest power of two up to 8 that gives every class
/// a stage. Sums of classes are added as a binary tree: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)).
BB_BOTH constexpr int classes_of(int in) {
  int classes = 1;
  while (classes < kMaxClasses && classes * 2 <= stages_of(in)) classes *= 2;
  return classes;
}
/// First stage of a class; that of class `classes` is the number of stages.
BB_BOTH constexpr int first_stage(int in, int index) { return index * stages_of(in) / classes_of(in); }

}  // namespace bumblebee::cuda
