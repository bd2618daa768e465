// The table of this instruction set. KERNEL_SET is its name as a string.
#pragma once

inline constexpr Kernels kTable = {.name = KERNEL_SET,
                                   .matvec = matvec,
                                   .decode = decode_rows,
                                   .dot_block = dot_block,
                                   .quantize = quantize_row,
                                   .high_rows = kHighRows,
                                   .matmul_int8 = int8_matmul,
                                   .round_bf16 = round_bf16,
                                   .matvec_bf16 = bf16_matvec,
                                   .small_gemm = small_gemm,
                                   .rms_norm = rms_norm,
                                   .add = add_rows,
                                   .multiply = multiply,
                                   .add_scaled = add_scaled,
                                   .scale = scale_row,
                                   .silu_mul = silu_mul,
                                   .rotate = rotate,
                                   .softmax_part = softmax_part,
                                   .max_scaled = max_scaled,
                                   .store = store_elements,
                                   .store_i8 = store_i8};
