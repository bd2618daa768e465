// What the processor can do at most with one instruction set: fused multiply-adds of f32, products of bf16 and of int8,
// counted in loops that do nothing else. The measure for kernels that are limited by arithmetic.
#pragma once

#include <string>
#include <string_view>

namespace bumblebee::bench {

/// Operations per second of all threads together; a multiply-add is two. `instruction` is what the loop is made of.
struct Peak {
  double per_second = 0;
  std::string instruction;
};

struct Peaks {
  Peak f32, int8;
  Peak bf16;  // f32's where no instruction of the set multiplies bf16
};

/// Measured now, best of many short runs within `seconds` each, on `threads` threads (0: one per core). Names of
/// instruction sets are those of the cpu backend; one that is not known gets the loops that every processor of the
/// architecture can run.
Peaks measure_peaks(std::string_view instruction_set, int threads, double seconds);

}  // namespace bumblebee::bench
