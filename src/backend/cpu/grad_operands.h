// Operands of the small products of attention, in f32 or in bf16: who multiplies need not know which. f32 is read where
// it lies, unless it is wanted transposed; bf16 is always packed, into room that the caller has.
#pragma once

#include "backend/cpu/kernels.h"

namespace bumblebee::cpu {

/// `count` rounded up to a multiple.
inline size_t up_to(int count, int multiple) { return size_t((count + multiple - 1) / multiple * multiple); }

class Operands {
 public:
  Operands(const Kernels& kernels, bool bf16) : k_(kernels), bf16_(bf16) {}

  /// [rows, depth], row-major; strides are in elements of its type.
  struct Left {
    const void* data = nullptr;
    size_t stride = 0;
  };
  /// [depth, cols]: f32 with a stride from row to row, bf16 from tile to tile.
  struct Right {
    const void* data = nullptr;
    size_t stride = 0;
  };

  /// Columns at which a right operand may be entered.
  static constexpr int kEntry = kPairCols;

  /// Floats of room; multiples of 16.
  size_t left_room(int rows, int depth) const;
  size_t transposed_left_room(int rows, int depth) const;
  size_t right_room(int depth, int cols) const;
  size_t transposed_right_room(int depth, int cols) const;

  Left left(const float* x, size_t stride, int rows, int depth, float* room) const;               // x [rows, depth]
  Left transposed_left(const float* x, size_t stride, int rows, int depth, float* room) const;    // x [depth, rows]
  Right right(const float* x, size_t stride, int depth, int cols, float* room) const;             // x [depth, cols]
  Right transposed_right(const float* x, size_t stride, int depth, int cols, float* room) const;  // x [cols, depth]

  /// From a row and a depth on; from a depth and a column on, which is a multiple of kEntry. Depths are even.
  Left from(const Left& left, int row, int depth) const;
  Right from(const Right& right, int depth, int col) const;

  /// c [rows, cols] = left·right, or +=. Right operands that were transposed have zeros up to a multiple of 16 columns.
  struct Result {
    float* c = nullptr;
    size_t stride = 0;
    bool accumulate = false;
  };
  void multiply(const Left& left, const Right& right, int rows, int cols, int depth, const Result& result) const;

 private:
  const Kernels& k_;
  bool bf16_;
};

}  // namespace bumblebee::cpu
