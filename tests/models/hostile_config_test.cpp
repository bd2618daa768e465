// Configs that are broken, or that contradict the tensors beside them, made from the goldens' checkpoints by changing
// one setting: each is refused by an error that names what is wrong, before memory is taken for what it says.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "io/checkpoint.h"
#include "models/registry.h"
#include "nn/loader.h"

namespace bumblebee::models {
namespace {

struct Hostile {
  const char *name, *checkpoint;  // below tests/data/goldens
  const char* patch;              // of its config: null is null, a nested object is replaced
  const char* mention;
};

constexpr Hostile kExperts[] = {
    {"of_a_row_none_said", "experts/qwen3_moe", R"({"num_experts_per_tok": "3"})", "'num_experts_per_tok'"},
    {"of_a_row_fraction", "experts/qwen3_moe", R"({"num_experts_per_tok": 2.5})", "'num_experts_per_tok'"},
    {"of_a_row_beyond_a_step", "experts/qwen3_moe", R"({"num_experts": 65536, "num_experts_per_tok": 1025})",
     "'num_experts_per_tok'"},
    {"beyond_64_bits", "experts/qwen3_moe", R"({"num_experts": 18446744073709551616})", "'num_experts'"},
    {"one_more_than_stacked", "experts/qwen3_moe", R"({"num_experts": 9})", "expected [9, 64], got [8, 64]"},
    {"wider_than_stacked", "experts/qwen3_moe", R"({"moe_intermediate_size": 33})", "expected [33, 64], got [32, 64]"},
    {"width_of_the_other_mlp", "experts/qwen3_moe", R"({"mlp_only_layers": [1]})", "model.layers.1.mlp.gate_proj"},
    {"layers_before_the_first", "experts/qwen3_moe", R"({"mlp_only_layers": [-1]})",
     "expected numbers below 2, got -1"},
    {"layers_beyond_64_bits", "experts/qwen3_moe", R"({"mlp_only_layers": [18446744073709551615]})",
     "expected numbers below 2"},
    {"layers_fraction", "experts/qwen3_moe", R"({"mlp_only_layers": [0.5]})", "expected numbers below 2, got 0.5"},
    {"layers_nested", "experts/qwen3_moe", R"({"mlp_only_layers": [[0]]})", "'mlp_only_layers'"},
    {"step_skips_one", "experts/qwen3_moe", R"({"decoder_sparse_step": 2})", "model.layers.0.mlp.gate_proj"},
    {"step_fraction", "experts/qwen3_moe", R"({"decoder_sparse_step": 1.5})", "'decoder_sparse_step'"},
    {"window_beyond_32_bits", "experts/qwen3_moe", R"({"use_sliding_window": true, "sliding_window": 4294967296})",
     "'sliding_window'"},
    {"eps_not_a_number", "experts/qwen3_moe", R"({"rms_norm_eps": NaN})", "'rms_norm_eps'"},
    {"eps_infinite", "experts/qwen3_moe", R"({"rms_norm_eps": Infinity})", "'rms_norm_eps'"},
    {"eps_beyond_a_float", "experts/qwen3_moe", R"({"rms_norm_eps": 1e300})", "'rms_norm_eps'"},
    {"theta_beyond_a_float", "experts/qwen3_moe", R"({"rope_theta": 1e300})", "'rope_theta'"},
    {"theta_infinite", "experts/qwen3_moe", R"({"rope_theta": Infinity})", "'rope_theta'"},
    {"family_of_another", "experts/qwen3_moe", R"({"model_type": "mixtral"})", "block_sparse_moe"},
    {"family_without", "experts/qwen3_moe", R"({"model_type": "qwen3", "num_experts": null})",
     "model.layers.0.mlp.gate_proj"},
    {"mixtral_all_of_them", "experts/mixtral_4bit", R"({"num_local_experts": 0})", "'num_local_experts'"},
    {"mixtral_width_negative", "experts/mixtral_4bit", R"({"intermediate_size": -32})", "'intermediate_size'"},
    {"mixtral_width_off_the_groups", "experts/mixtral_4bit", R"({"intermediate_size": 95})", "got "},
    {"qwen2_shared_wider", "experts/qwen2_moe", R"({"shared_expert_intermediate_size": 97})",
     "shared_expert.gate_proj"},
    {"qwen2_biases_unclaimed", "experts/qwen2_moe", R"({"qkv_bias": false})", "q_proj.bias"},
};

constexpr Hostile kGptOss[] = {
    {"experts_more", "gpt_oss/gpt_oss", R"({"num_local_experts": 7})", "expected [7, 64], got [6, 64]"},
    {"experts_beyond", "gpt_oss/gpt_oss", R"({"num_local_experts": 65537})", "'num_local_experts'"},
    {"width", "gpt_oss/gpt_oss", R"({"intermediate_size": 65})", "65, 64]"},
    {"width_of_blocks", "gpt_oss/gpt_oss_blocks", R"({"intermediate_size": 96})", "experts"},
    {"inputs_of_blocks", "gpt_oss/gpt_oss_blocks", R"({"hidden_size": 96})", "expected [64, 96], got [64, 64]"},
    {"window_negative", "gpt_oss/gpt_oss", R"({"sliding_window": -5})", "'sliding_window'"},
    {"window_text", "gpt_oss/gpt_oss", R"({"sliding_window": "5"})", "'sliding_window'"},
    {"no_biases", "gpt_oss/gpt_oss", R"({"attention_bias": false})", "self_attn.k_proj.bias"},
    {"heads_without_sinks", "gpt_oss/gpt_oss", R"({"num_attention_heads": 8, "head_dim": 8})", "expected "},
    {"limit_beyond_a_float", "gpt_oss/gpt_oss", R"({"swiglu_limit": 1e300})", "'swiglu_limit'"},
    {"kinds_of_null", "gpt_oss/gpt_oss", R"({"layer_types": [null, null]})", "'layer_types'"},
    {"kinds_an_object", "gpt_oss/gpt_oss", R"({"layer_types": {"0": "full_attention"}})", "'layer_types'"},
    {"yarn_without_a_factor", "gpt_oss/gpt_oss", R"({"rope_scaling": {"rope_type": "yarn"}})", "'factor'"},
    {"yarn_factor_beyond_a_float", "gpt_oss/gpt_oss", R"({"rope_scaling": {"rope_type": "yarn", "factor": 1e300}})",
     "'factor'"},
    {"yarn_factor_below_a_float", "gpt_oss/gpt_oss", R"({"rope_scaling": {"rope_type": "yarn", "factor": 1e-300}})",
     "'factor'"},
    {"yarn_factor_beyond_any_context", "gpt_oss/gpt_oss", R"({"rope_scaling": {"rope_type": "yarn", "factor": 2000}})",
     "'factor'"},
    {"yarn_beta_zero", "gpt_oss/gpt_oss", R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "beta_fast": 0}})",
     "'beta_fast'"},
    {"yarn_beta_text", "gpt_oss/gpt_oss", R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "beta_slow": "1"}})",
     "'beta_slow'"},
    {"yarn_truncates_by_number", "gpt_oss/gpt_oss",
     R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "truncate": 1}})", "'truncate'"},
    {"yarn_attention_beyond_a_float", "gpt_oss/gpt_oss",
     R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "attention_factor": 1e300}})", "'attention_factor'"},
    {"yarn_scale_beyond_a_float", "gpt_oss/gpt_oss",
     R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "mscale": 1e300, "mscale_all_dim": 1}})", "'mscale'"},
    {"yarn_scale_negative", "gpt_oss/gpt_oss",
     R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "mscale": -100, "mscale_all_dim": 1}})", "'mscale'"},
    {"yarn_original_zero", "gpt_oss/gpt_oss",
     R"({"rope_scaling": {"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 0}})",
     "'original_max_position_embeddings'"},
};

constexpr Hostile kHybrids[] = {
    {"states_of_gigabytes", "delta/qwen3_5",
     R"({"linear_num_key_heads": 4096, "linear_num_value_heads": 4096, "linear_key_head_dim": 4096,
         "linear_value_head_dim": 4096})",
     "'linear_num_value_heads'"},
    {"key_heads_beyond_64_bits", "delta/qwen3_5", R"({"linear_num_key_heads": 18446744073709551616})",
     "'linear_num_key_heads'"},
    {"key_heads_of_64_bits", "delta/qwen3_5", R"({"linear_num_key_heads": 9223372036854775807})",
     "'linear_num_key_heads'"},
    {"value_dim_negative", "delta/qwen3_5", R"({"linear_value_head_dim": -16})", "'linear_value_head_dim'"},
    {"kernel_fraction", "delta/qwen3_5", R"({"linear_conv_kernel_dim": 3.5})", "'linear_conv_kernel_dim'"},
    {"kernel_shorter", "delta/qwen3_5", R"({"linear_conv_kernel_dim": 3})", "conv1d"},
    {"key_heads_more", "delta/qwen3_5", R"({"linear_num_key_heads": 4})", "linear_attn."},
    {"value_heads_more", "delta/qwen3_5", R"({"linear_num_value_heads": 8})", "linear_attn."},
    {"key_dim_wider", "delta/qwen3_5", R"({"linear_key_head_dim": 16})", "linear_attn."},
    {"value_dim_narrower", "delta/qwen3_5", R"({"linear_value_head_dim": 8})", "linear_attn."},
    {"kinds_a_word", "delta/qwen3_5", R"({"layer_types": "linear_attention"})", "'layer_types'"},
    {"kinds_numbers", "delta/qwen3_5", R"({"layer_types": [0, 1]})", "'layer_types'"},
    {"kinds_too_many", "delta/qwen3_5",
     R"({"layer_types": ["linear_attention", "full_attention", "linear_attention"]})", "expected a list of 2 names"},
    {"kinds_swapped", "delta/qwen3_5", R"({"layer_types": ["full_attention", "linear_attention"]})",
     "layers.1.linear_attn"},
    {"all_attend", "delta/qwen3_5", R"({"full_attention_interval": 1})", "model.layers.0.self_attn"},
    {"none_attends", "delta/qwen3_5", R"({"full_attention_interval": 3})", "model.layers.1.linear_attn"},
    {"interval_text", "delta/qwen3_5", R"({"full_attention_interval": "2"})", "'full_attention_interval'"},
    {"no_biases", "delta/qwen3_5", R"({"attention_bias": false})", "_proj.bias"},
    {"head_narrower", "delta/qwen3_5", R"({"head_dim": 8})", "model.layers.1.self_attn"},
    {"gate_text", "delta/qwen3_5", R"({"attn_output_gate": "no"})", "'attn_output_gate'"},
    {"rotates_nothing", "delta/qwen3_5",
     R"({"rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 1e-9}})",
     "'partial_rotary_factor'"},
    {"rotates_text", "delta/qwen3_5",
     R"({"rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": "0.25"}})",
     "'partial_rotary_factor'"},
    {"rotates_backwards", "delta/qwen3_5",
     R"({"rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": -0.25}})",
     "'partial_rotary_factor'"},
    {"rotation_a_list", "delta/qwen3_5", R"({"rope_parameters": []})", "'rope_parameters'"},
    {"rotation_of_two_minds", "delta/qwen3_5", R"({"rope_theta": 1e4})", "disagree"},
    {"experts_fewer", "delta/qwen3_5_moe_4bit", R"({"num_experts": 3})", "expected [3, 64], got weight [4, 16]"},
    {"shared_wider", "delta/qwen3_5_moe_4bit", R"({"shared_expert_intermediate_size": 64})", "shared_expert.gate_proj"},
    {"moe_off_the_groups", "delta/qwen3_5_moe_4bit", R"({"moe_intermediate_size": 33})", "switch_mlp"},
    {"next_is_not_3_5", "delta/qwen3_next", R"({"model_type": "qwen3_5_moe"})", "linear_attn."},
    {"three_5_is_not_next", "delta/qwen3_5_moe_4bit", R"({"model_type": "qwen3_next"})", "linear_attn."},
    {"next_all_plain", "delta/qwen3_next", R"({"mlp_only_layers": [0, 1]})", "model.layers.0.mlp.gate_proj"},
    {"next_rotary_odd", "delta/qwen3_next", R"({"partial_rotary_factor": 0.2})", "'partial_rotary_factor'"},
};

constexpr Hostile kGemmas[] = {
    {"scale_below_a_float", "gemma/gemma3_packaged_4bit", R"({"query_pre_attn_scalar": 1e-300})",
     "'query_pre_attn_scalar'"},
    {"scale_beyond_a_float", "gemma/gemma3_packaged_4bit", R"({"query_pre_attn_scalar": 1e300})",
     "'query_pre_attn_scalar'"},
    {"scale_not_a_number", "gemma/gemma3_packaged_4bit", R"({"query_pre_attn_scalar": NaN})",
     "'query_pre_attn_scalar'"},
    {"scale_true", "gemma/gemma3_packaged_4bit", R"({"query_pre_attn_scalar": true})", "'query_pre_attn_scalar'"},
    {"cap_beyond_a_float", "gemma/gemma2_4bit", R"({"attn_logit_softcapping": 1e300})", "'attn_logit_softcapping'"},
    {"cap_below_a_float", "gemma/gemma2_4bit", R"({"final_logit_softcapping": 1e-300})", "'final_logit_softcapping'"},
    {"cap_infinite", "gemma/gemma2_4bit", R"({"final_logit_softcapping": Infinity})", "'final_logit_softcapping'"},
    {"window_text", "gemma/gemma2_4bit", R"({"sliding_window": "3"})", "'sliding_window'"},
    {"window_beyond_32_bits", "gemma/gemma2_4bit", R"({"sliding_window": 4294967296})", "'sliding_window'"},
    {"kinds_with_a_hole", "gemma/gemma3_packaged_4bit", R"({"layer_types": ["sliding_attention", null]})",
     "'layer_types'"},
    {"pattern_negative", "gemma/gemma3_packaged_4bit", R"({"sliding_window_pattern": -2})", "'sliding_window_pattern'"},
    {"stretch_below_a_float", "gemma/gemma3_packaged_4bit",
     R"({"rope_scaling": {"rope_type": "linear", "factor": 1e-300}})", "'factor'"},
    {"stretch_text", "gemma/gemma3_packaged_4bit", R"({"rope_scaling": {"rope_type": "linear", "factor": "8"}})",
     "'factor'"},
    {"local_base_zero", "gemma/gemma3_packaged_4bit", R"({"rope_local_base_freq": 0})", "'rope_theta'"},
    {"local_base_one", "gemma/gemma3_packaged_4bit", R"({"rope_local_base_freq": 1})", "'rope_theta'"},
    {"local_base_text", "gemma/gemma3_packaged_4bit", R"({"rope_local_base_freq": "1e4"})", "'rope_theta'"},
    {"head_wider", "gemma/gemma3_packaged_4bit", R"({"head_dim": 16})", "self_attn.q_proj"},
    {"no_norms_of_heads", "gemma/gemma3_packaged_4bit", R"({"model_type": "gemma2"})", "self_attn.k_norm"},
    {"packed_inputs", "gemma/gemma3_packaged_4bit", R"({"hidden_size": 40})", "embed_tokens"},
    {"heads_beyond_a_size", "gemma/gemma4_e_4bit",
     R"({"num_attention_heads": 65536, "num_key_value_heads": 1, "global_head_dim": 4096})", "'global_head_dim'"},
    {"wide_head_narrower", "gemma/gemma4_e_4bit", R"({"global_head_dim": 8})", "model.layers.1.self_attn"},
    {"aside_negative", "gemma/gemma4_e_4bit", R"({"hidden_size_per_layer_input": -1})",
     "'hidden_size_per_layer_input'"},
    {"aside_beyond_a_size", "gemma/gemma4_e_4bit",
     R"({"hidden_size_per_layer_input": 65536, "num_hidden_layers": 4096, "layer_types": null})",
     "'hidden_size_per_layer_input'"},
    {"aside_not_wanted", "gemma/gemma4_e_4bit", R"({"hidden_size_per_layer_input": 0})", "per_layer"},
    {"aside_vocab_more", "gemma/gemma4_e_4bit", R"({"vocab_size_per_layer_input": 49})", "embed_tokens_per_layer"},
    {"aside_vocab_less", "gemma/gemma4_e_4bit", R"({"vocab_size_per_layer_input": 47})",
     "'vocab_size_per_layer_input'"},
    {"shared_negative", "gemma/gemma4_e_4bit", R"({"num_kv_shared_layers": -1})", "'num_kv_shared_layers'"},
    {"shared_more_than_layers", "gemma/gemma4_e_4bit", R"({"num_kv_shared_layers": 5})", "'num_kv_shared_layers'"},
    {"shared_without_a_source", "gemma/gemma4_e_4bit", R"({"num_kv_shared_layers": 3})", "'num_kv_shared_layers'"},
    {"shared_fewer", "gemma/gemma4_e_4bit", R"({"num_kv_shared_layers": 0, "use_double_wide_mlp": false})",
     "model.layers."},
    {"not_double_wide", "gemma/gemma4_e_4bit", R"({"use_double_wide_mlp": false})", "mlp.gate_proj"},
    {"double_wide_text", "gemma/gemma4_e_4bit", R"({"use_double_wide_mlp": "yes"})", "'use_double_wide_mlp'"},
    {"head_odd", "gemma/gemma4_e_4bit", R"({"head_dim": 3})", "'head_dim'"},
    {"part_zero", "gemma/gemma4_e_4bit",
     R"({"rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0}}})",
     "'partial_rotary_factor'"},
    {"part_stretch_below_a_float", "gemma/gemma4_e_4bit",
     R"({"rope_parameters": {"full_attention": {"rope_type": "proportional", "factor": 1e-300}}})", "'factor'"},
    {"values_apart", "gemma/gemma4_moe_4bit", R"({"attention_k_eq_v": false})", "model.layers.1.self_attn"},
    {"no_experts", "gemma/gemma4_moe_4bit", R"({"enable_moe_block": false})", "model.layers.0."},
    {"experts_missing", "gemma/gemma4_moe_4bit", R"({"num_experts": null})", "missing key 'num_experts'"},
    {"experts_more", "gemma/gemma4_moe_4bit", R"({"num_experts": 6})", "router"},
    {"experts_of_a_row_none", "gemma/gemma4_moe_4bit", R"({"top_k_experts": 0})", "'top_k_experts'"},
    {"experts_of_a_row_missing", "gemma/gemma4_moe_4bit", R"({"top_k_experts": null})", "missing key 'top_k_experts'"},
    {"experts_wider", "gemma/gemma4_moe_4bit", R"({"moe_intermediate_size": 64})", "experts"},
    {"wide_kv_heads_more", "gemma/gemma4_moe_4bit", R"({"num_global_key_value_heads": 2})", "model.layers.1.self_attn"},
};

constexpr Hostile kDense[] = {
    {"granite_beyond_a_float", "dense/granite", R"({"embedding_multiplier": 1e300})", "'embedding_multiplier'"},
    {"granite_below_a_float", "dense/granite", R"({"logits_scaling": 1e-300})", "'logits_scaling'"},
    {"granite_not_a_number", "dense/granite", R"({"residual_multiplier": NaN})", "'residual_multiplier'"},
    {"granite_text", "dense/granite", R"({"attention_multiplier": "0.25"})", "'attention_multiplier'"},
    {"granite_true", "dense/granite", R"({"residual_multiplier": true})", "'residual_multiplier'"},
    {"granite_biased", "dense/granite", R"({"mlp_bias": true})", "mlp.gate_proj.bias"},
    {"granite_has_a_head", "dense/granite", R"({"tie_word_embeddings": false})", "lm_head.weight"},
    {"granite_with_experts", "dense/granite", R"({"num_local_experts": 4})", "num_local_experts"},
    {"phi_heads_of_the_fused", "dense/phi3", R"({"num_key_value_heads": 4})", "qkv_proj.weight': expected [128, 64]"},
    {"phi_width_of_the_fused", "dense/phi3", R"({"intermediate_size": 95})", "gate_up_proj"},
    {"phi_window_text", "dense/phi4", R"({"sliding_window": "5"})", "'sliding_window'"},
    {"phi_rotates_an_odd_part", "dense/phi4", R"({"partial_rotary_factor": 0.7})", "'partial_rotary_factor'"},
    {"phi_rotates_another_part", "dense/phi4", R"({"partial_rotary_factor": 0.5})", "'short_factor'"},
    {"phi_rotates_too_much", "dense/phi4", R"({"partial_rotary_factor": 1.25})", "'partial_rotary_factor'"},
    {"phi_factor_below_a_float", "dense/phi4",
     R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1e-37]}})", "'short_factor'"},
    {"phi_factors_an_object", "dense/phi4", R"({"rope_scaling": {"type": "longrope", "short_factor": {"0": 1}}})",
     "'rope_scaling'"},
    {"phi_attention_negative", "dense/phi4",
     R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1], "long_factor": [1, 1, 1, 1, 1, 1],
         "attention_factor": -1}})",
     "'attention_factor'"},
    {"phi_original_one", "dense/phi4", R"({"original_max_position_embeddings": 1})",
     "'original_max_position_embeddings'"},
    {"phi_original_text", "dense/phi4", R"({"original_max_position_embeddings": "64"})",
     "'original_max_position_embeddings'"},
    {"phi_types_disagree", "dense/phi4",
     R"({"rope_scaling": {"type": "longrope", "rope_type": "yarn", "short_factor": [1, 1, 1, 1, 1, 1]}})", "disagree"},
    {"smollm_turns_short", "models/smollm3", R"({"no_rope_layers": [1]})", "'no_rope_layers'"},
    {"smollm_turns_two", "models/smollm3", R"({"no_rope_layers": [2, 1]})", "'no_rope_layers'"},
    {"smollm_turns_text", "models/smollm3", R"({"no_rope_layers": ["1", "1"]})", "'no_rope_layers'"},
    {"smollm_turns_number", "models/smollm3", R"({"no_rope_layers": 1})", "'no_rope_layers'"},
    {"smollm_interval_zero", "models/smollm3", R"({"no_rope_layers": null, "no_rope_layer_interval": 0})",
     "'no_rope_layer_interval'"},
    {"smollm_window_zero", "models/smollm3", R"({"sliding_window": 0})", "'sliding_window'"},
    {"llama3_factor_below_a_float", "models/llama_llama3",
     R"({"rope_scaling": {"rope_type": "llama3", "factor": 1e-300, "low_freq_factor": 1, "high_freq_factor": 4,
         "original_max_position_embeddings": 64}})",
     "'factor'"},
};

constexpr Hostile kLatents[] = {
    {"scale_beyond_a_float", "mla/deepseek_v3", R"({"routed_scaling_factor": 1e300})", "'routed_scaling_factor'"},
    {"scale_zero", "mla/deepseek_v3", R"({"routed_scaling_factor": 0})", "'routed_scaling_factor'"},
    {"scale_not_a_number", "mla/deepseek_v3", R"({"routed_scaling_factor": NaN})", "'routed_scaling_factor'"},
    {"scores_beyond_a_float", "mla/deepseek_v3",
     R"({"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "mscale": 1e300,
         "mscale_all_dim": 1e300}})",
     "'mscale_all_dim'"},
    {"values_beyond_a_size", "mla/deepseek_v3", R"({"num_attention_heads": 8192, "num_key_value_heads": 8192,
                                                    "v_head_dim": 4096})",
     "heads x latents"},
    {"latent_wider", "mla/deepseek_v3", R"({"kv_lora_rank": 64})", "kv_"},
    {"latent_of_queries_wider", "mla/deepseek_v3", R"({"q_lora_rank": 64})", "q_a_"},
    {"queries_without_a_latent", "mla/deepseek_v3", R"({"q_lora_rank": null})", "q_proj"},
    {"queries_with_one", "mla/deepseek_v2_4bit", R"({"q_lora_rank": 32})", "q_a_"},
    {"values_wider", "mla/deepseek_v3", R"({"v_head_dim": 32})", "self_attn."},
    {"rotating_part_wider", "mla/deepseek_v3", R"({"qk_rope_head_dim": 16})", "self_attn."},
    {"part_that_stays_wider", "mla/glm4_moe_lite", R"({"qk_nope_head_dim": 64})", "self_attn."},
    {"rank_beyond_64_bits", "mla/glm4_moe_lite", R"({"kv_lora_rank": 18446744073709551616})", "'kv_lora_rank'"},
    {"groups_more_than_experts", "mla/deepseek_v3", R"({"n_group": 16})", "'n_group'"},
    {"groups_text", "mla/deepseek_v3", R"({"n_group": "4"})", "'n_group'"},
    {"experts_of_closed_groups", "mla/deepseek_v3", R"({"topk_group": 1})", "'num_experts_per_tok'"},
    {"shared_more", "mla/deepseek_v3", R"({"n_shared_experts": 2})", "shared_experts"},
    {"shared_beyond_a_size", "mla/deepseek_v3", R"({"n_shared_experts": 65536, "moe_intermediate_size": 16777216})",
     "shared experts"},
    {"shared_unclaimed", "mla/deepseek_v3", R"({"n_shared_experts": null})", "shared_experts"},
    {"experts_none", "mla/deepseek_v3", R"({"n_routed_experts": null})", "model.layers.1.mlp"},
    {"experts_fewer", "mla/deepseek_v3", R"({"n_routed_experts": 4, "n_group": 2})", "mlp.gate"},
    {"dense_layers_more", "mla/deepseek_v3", R"({"first_k_dense_replace": 2})", "model.layers.1.mlp.gate_proj"},
    {"interleaved_by_number", "mla/glm4_moe_lite", R"({"rope_interleave": 1})", "'rope_interleave'"},
    {"biased", "mla/deepseek_v3", R"({"attention_bias": true})", ".bias"},
};

constexpr Hostile kSmall[] = {
    {"phi_long_factor_zero", "dense/phi4_beyond",
     R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1], "long_factor": [1, 1, 1, 1, 1, 0]}})",
     "'long_factor'"},
    {"phi_long_factors_few", "dense/phi4_beyond",
     R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1], "long_factor": [1]}})",
     "'long_factor'"},
    {"growth_beyond_a_float", "dense/ministral3",
     R"({"rope_parameters": {"rope_type": "yarn", "factor": 16, "rope_theta": 1e6, "llama_4_scaling_beta": 1e300,
         "original_max_position_embeddings": 5}})",
     "'llama_4_scaling_beta'"},
    {"growth_negative", "dense/ministral3",
     R"({"rope_parameters": {"rope_type": "yarn", "factor": 16, "rope_theta": 1e6, "llama_4_scaling_beta": -1,
         "original_max_position_embeddings": 5}})",
     "'llama_4_scaling_beta'"},
    {"olmo_kinds_short", "dense/olmo3", R"({"layer_types": ["full_attention"]})", "'layer_types'"},
    {"lfm_mlp_of_nothing", "lfm2/lfm2", R"({"block_ffn_dim_multiplier": 1e-9})", "'block_ffn_dim_multiplier'"},
    {"lfm_mlp_beyond_a_size", "lfm2/lfm2", R"({"block_ffn_dim_multiplier": 1e9})", "'block_ffn_dim_multiplier'"},
    {"lfm_mlp_negative", "lfm2/lfm2", R"({"block_ffn_dim_multiplier": -1})", "'block_ffn_dim_multiplier'"},
    {"lfm_moe_experts", "lfm2/lfm2_moe", R"({"num_experts": 0})", "'num_experts'"},
    {"lfm_moe_of_row", "lfm2/lfm2_moe", R"({"num_experts_per_tok": 9})", "'num_experts_per_tok'"},
    {"lfm_moe_dense", "lfm2/lfm2_moe", R"({"num_dense_layers": -1})", "'num_dense_layers'"},
    {"lfm_moe_width", "lfm2/lfm2_moe", R"({"moe_intermediate_size": null})", "'moe_intermediate_size'"},
    {"lfm_moe_scale", "lfm2/lfm2_moe", R"({"routed_scaling_factor": 0})", "'routed_scaling_factor'"},
    {"lfm_eps_beyond_a_float", "lfm2/lfm2", R"({"norm_eps": 1e300})", "'rms_norm_eps'"},
};

class HostileConfig : public testing::TestWithParam<Hostile> {
 protected:
  /// From here on, 256 MB more than what the process has is all that it gets.
  void SetUp() override {
    size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    getrlimit(RLIMIT_AS, &before_);
    rlimit narrow = before_;
    narrow.rlim_cur = pages * size_t(sysconf(_SC_PAGESIZE)) + (size_t{256} << 20);
    setrlimit(RLIMIT_AS, &narrow);
  }
  void TearDown() override { setrlimit(RLIMIT_AS, &before_); }

 private:
  rlimit before_{};
};

TEST_P(HostileConfig, IsRefusedByName) {
  const Hostile& hostile = GetParam();
  const auto checkpoint = Checkpoint::open(std::string(BB_TEST_DATA) + "/goldens/" + hostile.checkpoint);
  Json config = checkpoint->config().text();
  config.update(parse_json(hostile.patch, "patch"));
  try {
    nn::Loader load(*checkpoint, nullptr);
    make_model(read_spec(config, "config.json"), load);
    FAIL() << "nothing was refused";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_TRUE(what.starts_with("[") && what.find("] ") != what.npos) << what;
    EXPECT_NE(what.find(hostile.mention), what.npos) << what;
    EXPECT_TRUE(error.code() == ErrorCode::bad_config || error.code() == ErrorCode::bad_file ||
                error.code() == ErrorCode::unsupported)
        << what;
  }
}

const auto kName = [](const auto& hostile) { return std::string(hostile.param.name); };
INSTANTIATE_TEST_SUITE_P(Experts, HostileConfig, testing::ValuesIn(kExperts), kName);
INSTANTIATE_TEST_SUITE_P(GptOss, HostileConfig, testing::ValuesIn(kGptOss), kName);
INSTANTIATE_TEST_SUITE_P(Hybrids, HostileConfig, testing::ValuesIn(kHybrids), kName);
INSTANTIATE_TEST_SUITE_P(Gemmas, HostileConfig, testing::ValuesIn(kGemmas), kName);
INSTANTIATE_TEST_SUITE_P(Latents, HostileConfig, testing::ValuesIn(kLatents), kName);
INSTANTIATE_TEST_SUITE_P(Small, HostileConfig, testing::ValuesIn(kSmall), kName);
INSTANTIATE_TEST_SUITE_P(Dense, HostileConfig, testing::ValuesIn(kDense), kName);

/// What the table changes is what is wrong with them: unchanged they load.
TEST(HostileConfigs, AreMadeFromSoundOnes) {
  for (const char* name : {"experts/qwen3_moe",
                           "experts/mixtral_4bit",
                           "experts/qwen2_moe",
                           "gpt_oss/gpt_oss",
                           "gpt_oss/gpt_oss_blocks",
                           "delta/qwen3_5",
                           "delta/qwen3_next",
                           "delta/qwen3_5_moe_4bit",
                           "gemma/gemma2_4bit",
                           "gemma/gemma3_packaged_4bit",
                           "gemma/gemma4_e_4bit",
                           "gemma/gemma4_moe_4bit",
                           "dense/granite",
                           "dense/phi3",
                           "dense/phi4",
                           "dense/phi4_beyond",
                           "dense/ministral3",
                           "dense/olmo3",
                           "lfm2/lfm2",
                           "lfm2/lfm2_moe_4bit",
                           "mla/deepseek_v2_4bit",
                           "mla/deepseek_v3",
                           "mla/glm4_moe_lite",
                           "models/smollm3",
                           "models/llama_llama3"}) {
    const auto checkpoint = Checkpoint::open(std::string(BB_TEST_DATA) + "/goldens/" + name);
    nn::Loader load(*checkpoint, nullptr);
    EXPECT_NO_THROW(make_model(read_spec(checkpoint->config().text(), "config.json"), load)) << name;
  }
}

}  // namespace
}  // namespace bumblebee::models
