// The few cases that run where all would take too long: under emulation and with sanitizers. Together they take every
// width of a weight, few rows and many, tails of vectors, and each cached type.
#include <algorithm>
#include <map>

#include "base/error.h"
#include "tests/ops/cases/op_case.h"

namespace bumblebee::op_cases {
namespace {

using Names = std::vector<std::string>;

/// Of operations whose cases vary in more than one way. Of the others: the first (an edge), one in the middle, and the
/// last (many rows).
const std::map<std::string, Names>& chosen() {
  static const Names rope = {"dim18", "dim80_norms", "part_of_head", "growing", "stretched_norms", "many_rows_norms"},
                     latents = {"dim18",   "dim80_norms",     "part_of_head",   "end_of_head_norms",
                                "growing", "stretched_norms", "many_rows_norms"},
                     packed = {"one_row",  "rows65",   "heads6_2",        "dim18",
                               "window33", "segments", "soft_cap_window", "sinks"};
  static const std::map<std::string, Names> names = {
      {"embed",
       {"b2_g32_f16", "b3_g64_bf16", "b4_g64_bf16", "b5_g128_f32", "b6_g32_bf16", "b8_g64_f16_f32", "mxfp4", "mxfp8",
        "nvfp4", "f16_odd"}},
      {"matmul",
       {"rows1",
        "rows33",
        "out33_row5",
        "in1088_row6",
        "f32_in17",
        "f16_in33",
        "bf16_in100",
        "b2_g32_f16_rows1",
        "b2_g64_bf16_rows18",
        "b3_g64_bf16_rows1",
        "b3_g32_f32_rows18",
        "b4_g64_bf16_rows18",
        "b5_g128_bf16_rows1",
        "b5_g64_f16_rows18",
        "b6_g64_f16_f32_rows1",
        "b6_g64_bf16_rows18",
        "b8_g64_bf16_rows1",
        "b8_g32_f16_rows18",
        "bf16_rows18",
        "mxfp4_rows1",
        "mxfp4_in544_rows9",
        "mxfp8_rows5",
        "nvfp4_global_rows20",
        "terms_mixed"}},
      {"matmul_experts",
       {"row1", "row1_down", "rows5", "rows33_down", "skewed", "all_to_one", "b2_g32_f16_row1", "b3_g64_bf16_rows18",
        "b5_g128_f32_rows18", "b6_g64_f16_row1", "b8_g64_bf16_rows18", "bf16_rows18", "mxfp4_row1", "nvfp4_rows18",
        "mixed_stacks"}},
      {"matmul_heads",
       {"rest", "rows5_transposed", "out17", "in31_transposed", "b4_g64_bf16_row1", "b8_g64_bf16_rows18_transposed",
        "b3_g32_f16_row1_transposed", "f16_rows18"}},
      {"lora_experts", {"row1", "row1_down", "rows6", "rows70_down", "skewed", "odd_sizes"}},
      {"lora_heads", {"row1", "row1_back", "rows33", "odd_sizes"}},
      {"lora", {"one_row", "odd_sizes", "many_rows", "everything_with_bias"}},
      {"norm_rope", latents},
      {"attend",
       {"first_token", "rows33", "past33_row5", "heads6_2", "dim80", "window17", "cached_f16", "cached_bf16_window",
        "cached_i8", "wide_bf16", "spans_i8", "tiles_window5_bf16", "latent", "latent_i8"}},
      {"attend_packed", packed},
      {"attend_packed_dqkv", packed},
      {"matmul_dx",
       {"rows13", "out257", "in192", "f16_in17", "bf16_in33", "b2_g32_f16_rows18", "b3_g64_bf16_rows18",
        "b5_g64_f16_rows18", "b6_g128_bf16_rows3", "b8_g64_bf16_rows18", "terms_mixed"}},
      {"gemm",
       {"m1_n1_k1_nn", "m37_n8_k96_nn", "m8_n96_k37_tn_add", "m37_n96_k5_nt_alpha_beta", "m40_n33_k130_tt_alpha"}},
      {"norm_rope_dx", rope},
      {"head_loss", {"rows1", "vocab257", "bias", "f16_sure", "b8", "cap_factor"}},
      {"delta_packed_dx", {"first_row", "heads2_6", "keys17", "values33", "segments"}},
  };
  return names;
}

}  // namespace

Cases chosen_cases_of(const std::string& operation) {
  Cases all = cases_of(operation), few;
  const auto named = chosen().find(operation);
  if (named == chosen().end()) {
    const size_t places[] = {0, all.size() / 2, all.size() - 1};
    for (const size_t place : places) {
      if (all[place] != nullptr) few.push_back(std::move(all[place]));
    }
    return few;
  }
  for (const std::string& variant : named->second) {
    const auto found = std::find_if(
        all.begin(), all.end(), [&](const auto& c) { return c != nullptr && c->name() == operation + "/" + variant; });
    BB_CHECK(found != all.end(), "no case '", operation, "/", variant, "'");
    few.push_back(std::move(*found));
  }
  return few;
}

}  // namespace bumblebee::op_cases
