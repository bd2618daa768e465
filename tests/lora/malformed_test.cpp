// Adapters that are broken, half there or of a kind we do not have: each is refused with an error that names the file
// and the tensor or key. The right ones they are made from are in adapter_files.h.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>

#include "tests/lora/adapter_files.h"

namespace bumblebee::lora {
namespace {

using namespace testing;

constexpr ErrorCode kFile = ErrorCode::bad_file, kConfig = ErrorCode::bad_config, kNot = ErrorCode::unsupported;

const std::string kA = kPeft + kQ0 + ".lora_A.weight", kB = kPeft + kQ0 + ".lora_B.weight";

struct Bad {
  const char* name;
  bool mlx;
  std::function<void(Directory&)> spoil;
  ErrorCode code;
  std::string part;                                                   // of the message
  std::function<void(const std::filesystem::path&)> after = nullptr;  // spoils the written directory
};

Json& parameters(Directory& d) { return d.config["lora_parameters"]; }

std::function<void(Directory&)> set(const char* key, Json value) {
  return [=](Directory& d) { d.config[key] = value; };
}

std::function<void(Directory&)> set_parameter(const char* key, Json value) {
  return [=](Directory& d) { parameters(d)[key] = value; };
}

std::function<void(Directory&)> add(const std::string& name, const std::vector<uint64_t>& shape) {
  return [=](Directory& d) { d.tensors.push_back({name, shape, DType::f32, {}}); };
}

std::function<void(Directory&)> reshape(const std::string& name, const std::vector<uint64_t>& shape) {
  return [=](Directory& d) { d.at(name).shape = shape; };
}

std::function<void(Directory&)> value(const std::string& name, float v) {
  return [=](Directory& d) {
    d.at(name).filled();
    d.at(name).values[1] = v;
  };
}

void nothing(Directory&) {}

void write(const std::filesystem::path& path, const std::string& bytes) { test::write_bytes(path, bytes); }

std::function<void(const std::filesystem::path&)> instead(const char* from, const char* to) {
  return [=](const std::filesystem::path& directory) { std::filesystem::rename(directory / from, directory / to); };
}

std::vector<Bad> cases() {
  const char* m = "adapters.safetensors";
  const char* p = "adapter_model.safetensors";
  return {
      // Directories
      {"nothing_there", true, nothing, kFile, "got neither", [=](const auto& d) { std::filesystem::remove(d / m); }},
      {"no_directory", true, nothing, kFile, "got no directory", [](const auto& d) { std::filesystem::remove_all(d); }},
      {"both_formats", true, nothing, kFile, "got both",
       [=](const auto& d) { std::filesystem::copy_file(d / m, d / p); }},
      {"pickle", false, nothing, kNot, "'adapter_model.bin'", instead(p, "adapter_model.bin")},
      {"npz", true, nothing, kNot, "'adapters.npz'", instead(m, "adapters.npz")},
      {"checkpoints_only", true, nothing, kFile, "'0000100_adapters.safetensors'",
       instead(m, "0000100_adapters.safetensors")},
      {"gguf", true, nothing, kNot, "'x.gguf'", instead(m, "x.gguf")},
      {"sharded", false, nothing, kNot, "sharded", instead(p, "adapter_model.safetensors.index.json")},
      {"no_config", true, [](Directory& d) { d.with_config = false; }, kFile, "adapter_config.json] missing"},
      {"no_peft_config", false, [](Directory& d) { d.with_config = false; }, kFile, "adapter_config.json] missing"},
      // Files
      {"empty_file", true, nothing, kFile, m, [=](const auto& d) { write(d / m, ""); }},
      {"cut_file", false, nothing, kFile, p,
       [=](const auto& d) { std::filesystem::resize_file(d / p, std::filesystem::file_size(d / p) - 1); }},
      {"header_too_long", true, nothing, kFile, m, [=](const auto& d) { write(d / m, std::string(8, '\xff')); }},
      {"config_empty", true, nothing, kFile, "adapter_config.json",
       [](const auto& d) { write(d / "adapter_config.json", ""); }},
      {"config_list", false, nothing, kConfig, "expected an object",
       [](const auto& d) { write(d / "adapter_config.json", "[]"); }},
      {"config_cut", false, nothing, kFile, "invalid JSON",
       [](const auto& d) { write(d / "adapter_config.json", "{\"r\": 8,"); }},
      {"pointer", true, nothing, kFile, "a Git LFS pointer, not the file itself (2.1 MB)",
       [=](const auto& d) {
         write(d / m, "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 2097152\n");
       }},
      {"page", false, nothing, kFile, "an HTML page", [=](const auto& d) { write(d / p, "<!DOCTYPE html>\n<html>"); }},
      {"config_deep", false, nothing, kFile, "nested too deeply",
       [](const auto& d) { write(d / "adapter_config.json", std::string(100, '[')); }},
      // Tensors of mlx-lm
      {"mlx_no_tensors", true, [](Directory& d) { d.tensors.clear(); }, kFile, "expected tensors, got none"},
      {"mlx_half_a", true, [](Directory& d) { d.remove(kQ0 + ".lora_b"); }, kFile,
       "half pairs: expected both factors of each module, got one of 1: '" + kQ0},
      {"mlx_half_b", true, [](Directory& d) { d.remove(kQ0 + ".lora_a"); }, kFile, "half pairs"},
      {"mlx_lone_magnitude", true, add(layer(0, "mlp.up_proj.m"), {4}), kFile, "half pairs"},
      {"mlx_stray", true, add("model.layers.0.self_attn.q_proj.weight", {6, 4}), kFile,
       "no part of an adapter: expected none, got 1: '" + kQ0},
      {"mlx_many_strays", true,
       [](Directory& d) {
         for (int i = 0; i < 12; ++i) add(cat("stray.", i), {1})(d);
       },
       kFile, "and 4 more"},
      {"mlx_peft_names", true, [](Directory& d) { d.tensors = peft_directory().tensors; }, kFile,
       "no part of an adapter: expected none, got 8"},
      {"mlx_ranks_differ", true, reshape(kQ0 + ".lora_b", {3, 6}), kFile,
       "tensor '" + kQ0 + ".lora_b': rank: expected 2 rows"},
      {"mlx_not_transposed", true,
       [](Directory& d) {
         d.at(kQ0 + ".lora_a").shape = {2, 4};
         d.at(kQ0 + ".lora_b").shape = {6, 2};
       },
       kFile, "rank: expected 4 rows"},
      {"mlx_square_not_transposed", true,
       [](Directory& d) {
         reshape(kQ0 + ".lora_a", {2, 6})(d);
         reshape(kQ0 + ".lora_b", {6, 2})(d);
       },
       kFile, "rank: expected 2 columns, as the config says, got [2, 6]"},
      {"mlx_rank_of_config", true, set_parameter("rank", 8), kFile, "rank: expected 8 columns, as the config says"},
      {"mlx_one_axis", true, reshape(kQ0 + ".lora_a", {8}), kFile,
       "tensor '" + kQ0 + ".lora_a': shape: expected [in, rank], got [8]"},
      {"mlx_experts", true, reshape(kQ0 + ".lora_a", {2, 2, 4}), kFile,
       "tensor '" + kQ0 + ".lora_b': shape: expected [experts, out, rank], got [2, 6]"},
      {"mlx_experts_rank", true,
       [](Directory& d) {
         d.at(kQ0 + ".lora_a") = {kQ0 + ".lora_a", {3, 2, 4}, DType::f32, {}};
         d.at(kQ0 + ".lora_b") = {kQ0 + ".lora_b", {3, 6, 1}, DType::f32, {}};
       },
       kFile, "expected [3, out, 2] beside '" + kQ0 + ".lora_a' [3, 2, 4], got [3, 6, 1]"},
      {"mlx_experts_count", true,
       [](Directory& d) {
         d.at(kQ0 + ".lora_a") = {kQ0 + ".lora_a", {3, 2, 4}, DType::f32, {}};
         d.at(kQ0 + ".lora_b") = {kQ0 + ".lora_b", {2, 6, 2}, DType::f32, {}};
       },
       kFile, "expected [3, out, 2]"},
      {"mlx_experts_rank_of_config", true,
       [](Directory& d) {
         d.at(kQ0 + ".lora_a") = {kQ0 + ".lora_a", {3, 1, 4}, DType::f32, {}};
         d.at(kQ0 + ".lora_b") = {kQ0 + ".lora_b", {3, 6, 1}, DType::f32, {}};
       },
       kFile, "rank: expected 2, as the config says, got [3, 1, 4]"},
      {"mlx_experts_none", true,
       [](Directory& d) {
         d.at(kQ0 + ".lora_a") = {kQ0 + ".lora_a", {0, 2, 4}, DType::f32, {}};
         d.at(kQ0 + ".lora_b") = {kQ0 + ".lora_b", {0, 6, 2}, DType::f32, {}};
       },
       kFile, "shape: expected [experts, rank, in], got [0, 2, 4]"},
      {"mlx_experts_dora", true,
       [](Directory& d) {
         d.config["fine_tune_type"] = "dora";
         d.at(kQ0 + ".lora_a") = {kQ0 + ".lora_a", {3, 2, 4}, DType::f32, {}};
         d.at(kQ0 + ".lora_b") = {kQ0 + ".lora_b", {3, 6, 2}, DType::f32, {}};
         d.tensors.push_back({kQ0 + ".m", {3, 6}, DType::f32, {}});
       },
       kNot, "DoRA of experts"},
      {"mlx_zero_rank", true,
       [](Directory& d) {
         d.at(kQ0 + ".lora_a") = {kQ0 + ".lora_a", {4, 0}, DType::f32, {}};
         d.at(kQ0 + ".lora_b") = {kQ0 + ".lora_b", {0, 6}, DType::f32, {}};
       },
       kFile, "shape: expected [in, rank], got [4, 0]"},
      {"mlx_integers", true, [](Directory& d) { d.at(kQ0 + ".lora_a").dtype = DType::i32; }, kFile,
       "type: expected F32, F16 or BF16, got I32"},
      {"mlx_f64", true, [](Directory& d) { d.at(kQ0 + ".lora_a").dtype = DType::f64; }, kFile, "got F64"},
      {"mlx_nan", true, value(kQ0 + ".lora_a", NAN), kFile,
       "tensor '" + kQ0 + ".lora_a': element 1: expected a finite number"},
      {"mlx_infinite", true, value(kQ0 + ".lora_b", INFINITY), kFile, "element 1"},
      {"mlx_long_path", true,
       [](Directory& d) {
         add(std::string(300, 'x') + ".lora_a", {4, 2})(d);
         add(std::string(300, 'x') + ".lora_b", {2, 4})(d);
       },
       kFile, "module path: expected at most 256 bytes, got 300"},
      {"mlx_magnitude_size", true,
       [](Directory& d) {
         d.config["fine_tune_type"] = "dora";
         add(kQ0 + ".m", {5})(d);
       },
       kFile, "shape: expected [6], got [5]"},
      {"mlx_dora_without_m", true, set("fine_tune_type", "dora"), kConfig,
       "expected a magnitude ('.m') in each module, got none in 4"},
      {"mlx_lora_with_m", true, add(kQ0 + ".m", {6}), kConfig,
       "expected no magnitude ('.m') in each module, got one in 1"},
      {"mlx_full_quantized", true,
       [](Directory& d) {
         d.config["fine_tune_type"] = "full";
         d.tensors = {{kQ0 + ".weight", {6, 4}, DType::u32, {}}, {kQ0 + ".scales", {6, 1}, DType::f16, {}}};
       },
       kNot, "quantized weights in a full fine-tune"},
      {"mlx_full_factors", true, set("fine_tune_type", "full"), kFile, "no part of an adapter: expected none, got 8"},
      {"mlx_full_3d", true,
       [](Directory& d) {
         d.config["fine_tune_type"] = "full";
         d.tensors = {{"model.layers.0.mlp.weight", {2, 2, 2}, DType::f32, {}}};
       },
       kNot, "experts"},
      // Config of mlx-lm
      {"mlx_type", true, set("fine_tune_type", "ia3"), kNot,
       "'fine_tune_type': expected lora, dora or full, got 'ia3'"},
      {"mlx_type_number", true, set("fine_tune_type", 3), kConfig, "'fine_tune_type': expected a string"},
      {"mlx_two_types", true, [](Directory& d) { d.config["use_dora"] = true; }, kConfig, "'use_dora' is true"},
      {"mlx_no_scale", true, [](Directory& d) { parameters(d).erase("scale"); }, kConfig,
       "missing 'lora_parameters'.'scale'"},
      {"mlx_no_parameters", true, [](Directory& d) { d.config.erase("lora_parameters"); }, kConfig,
       "missing 'lora_parameters'.'scale'"},
      {"mlx_scale_text", true, set_parameter("scale", "20"), kConfig, "'scale': expected a finite number"},
      {"mlx_scale_huge", true, set_parameter("scale", 1e300), kConfig, "scale: expected a finite f32"},
      {"mlx_alpha", true,
       [](Directory& d) {  // nothing dates it
         d.config = {{"lora_layers", 2}, {"lora_parameters", parameters(d)}};
         parameters(d)["alpha"] = 16;
       },
       kNot,
       "scale·alpha/rank = 12, later ones with scale = 1.5: give the right one when loading (--adapter SRC:scale=12"},
      {"mlx_unknown_parameter", true, set_parameter("use_rslora", true), kNot, "unknown key 'use_rslora'"},
      {"mlx_parameters_list", true, set("lora_parameters", {1, 2}), kConfig, "expected an object"},
      {"mlx_keys", true, set_parameter("keys", {"self_attn.k_proj", "mlp.down_proj"}), kConfig,
       "'keys': expected every module that has factors, got none for 2: '" + kQ0},
      {"mlx_keys_numbers", true, set_parameter("keys", {1, 2}), kConfig, "'keys': expected a list of strings"},
      {"mlx_rank_zero", true, set_parameter("rank", 0), kConfig, "'rank': expected an integer from 1"},
      {"mlx_layers_twice", true, set("lora_layers", 8), kConfig,
       "'lora_layers': expected 'num_layers', which is 2, got 8"},
      {"mlx_layers_text", true, set("num_layers", "16"), kConfig, "'num_layers'"},
      {"mlx_with_peft_config", true, [](Directory& d) { d.config = peft_directory().config; }, kConfig,
       "got PEFT's ('peft_type')"},
      // Tensors of PEFT
      {"peft_half", false, [](Directory& d) { d.remove(kB); }, kFile,
       "half pairs: expected both factors of each module, got one of 1: '" + kQ0},
      {"peft_no_prefix", false, [](Directory& d) { d.rename(kA, kQ0 + ".lora_A.weight"); }, kFile,
       "names: expected 'base_model.model....', got 1: '" + kQ0},
      {"peft_mlx_names", false, [](Directory& d) { d.tensors = mlx_directory().tensors; }, kFile,
       "names: expected 'base_model.model."},
      {"peft_adapter_name", false, [](Directory& d) { d.rename(kA, kPeft + kQ0 + ".lora_A.default.weight"); }, kFile,
       "expected no name of an adapter inside"},
      {"peft_stray", false, add(kPeft + kQ0 + ".lora_C", {2}), kFile, "no part of an adapter"},
      {"peft_ranks_differ", false, reshape(kB, {6, 3}), kFile, "tensor '" + kB + "': rank: expected 2 columns"},
      {"peft_transposed", false,
       [](Directory& d) {
         d.at(kA).shape = {4, 2};
         d.at(kB).shape = {2, 6};
       },
       kFile, "rank: expected 4 columns"},
      {"peft_rank_of_config", false, set("r", 4), kFile, "rank: expected 4 rows, as the config says, got [2, "},
      {"peft_rank_pattern", false, set("rank_pattern", {{"q_proj", 4}}), kFile,
       "tensor '" + kA + "': rank: expected 4 rows"},
      {"peft_experts", false, reshape(kA, {2, 2, 4}), kNot, "a stack of experts is not supported here"},
      {"peft_nan", false, value(kA, NAN), kFile, "tensor '" + kA + "': element 1"},
      {"peft_integers", false, [](Directory& d) { d.at(kB).dtype = DType::i8; }, kFile, "got I8"},
      {"peft_two_weights", false,
       [](Directory& d) {
         add(kPeft + "lm_head.weight", {9, 4})(d);
         add(kPeft + "lm_head.base_layer.weight", {9, 4})(d);
       },
       kFile, "expected one tensor for this"},
      {"peft_tokens", false, add(kPeft + "model.embed_tokens.token_adapter.trainable_tokens_delta", {1, 4}), kNot,
       "trained single tokens"},
      {"peft_dora_without", false, set("use_dora", true), kConfig,
       "'use_dora' is true: expected 'lora_magnitude_vector'"},
      {"peft_dora_unsaid", false, add(kPeft + kQ0 + ".lora_magnitude_vector", {6}), kConfig,
       "'use_dora' is false: expected no 'lora_magnitude_vector'"},
      {"peft_lora_bias_without", false, set("lora_bias", true), kConfig, "'lora_bias' is true"},
      {"peft_lora_bias_unsaid", false, add(kPeft + kQ0 + ".lora_B.bias", {6}), kConfig,
       "'lora_bias' is false: expected no 'lora_B.bias' in "},
      {"peft_bias_unsaid", false, add(kPeft + kQ0 + ".bias", {6}), kConfig,
       "'bias': expected every module that has a bias"},
      {"peft_bias_elsewhere", false,
       [](Directory& d) {
         d.config["bias"] = "lora_only";
         add(kPeft + layer(0, "self_attn.k_proj.bias"), {6})(d);
       },
       kConfig, "got none for 1: 'model.layers.0.self_attn.k_proj'"},
      {"peft_weight_unsaid", false, add(kPeft + layer(0, "mlp.up_proj.weight"), {6, 4}), kConfig,
       "'modules_to_save': expected every module that has a whole weight"},
      {"peft_saved_missing", false, set("modules_to_save", {"lm_head"}), kConfig, "got none of 1: 'lm_head'"},
      // Config of PEFT
      {"peft_type_missing", false, [](Directory& d) { d.config.erase("peft_type"); }, kConfig, "missing 'peft_type'"},
      {"peft_type_other", false, set("peft_type", "LOHA"), kNot, "'peft_type': expected 'LORA', got 'LOHA'"},
      {"peft_r_zero", false, set("r", 0), kConfig, "'r': expected an integer from 1"},
      {"peft_r_text", false, set("r", "8"), kConfig, "'r'"},
      {"peft_alpha_text", false, set("lora_alpha", "16"), kConfig, "'lora_alpha': expected a finite number"},
      {"peft_alpha_huge", false, set("lora_alpha", 1e300), kConfig, "'lora_alpha': expected a finite f32"},
      {"peft_alpha_pattern", false, set("alpha_pattern", {{"q_proj", nullptr}}), kConfig,
       "expected a number, got null"},
      {"peft_pattern_list", false, set("rank_pattern", {1}), kConfig, "'rank_pattern': expected an object"},
      {"peft_targets", false, set("target_modules", {"k_proj", "down_proj"}), kConfig,
       "'target_modules': expected every module that has factors"},
      {"peft_excluded", false, set("exclude_modules", {"layers.0.self_attn.q_proj"}), kConfig,
       "got none for 1: '" + kQ0},
      {"peft_layer", false, set("layers_to_transform", {0}), kConfig, "got none for 2"},
      {"peft_layers_text", false, set("layers_to_transform", {"0"}), kConfig,
       "'layers_to_transform': expected numbers"},
      {"peft_layers_of_pattern", false,
       [](Directory& d) {
         d.config["target_modules"] = ".*_proj";
         d.config["layers_to_transform"] = 0;
       },
       kConfig, "expected 'target_modules' to be a list"},
      {"peft_layers_pattern", false,
       [](Directory& d) {
         d.config["layers_to_transform"] = {0, 1};
         d.config["layers_pattern"] = "layers|h";
       },
       kNot, "'layers_pattern': expected a name"},
      {"peft_lookahead", false, set("target_modules", "(?!.*layers.0).*_proj"), kConfig,
       "'target_modules': expected every module that has factors"},
      {"peft_condition", false, set("target_modules", "(q)?(?(1)_proj|.*)"), kNot,
       "'target_modules', pattern '(q)?(?(1)_proj|.*)'] a condition on a group is not supported"},
      {"peft_broken_pattern", false, set("target_modules", "(q_proj"), kConfig, "without closing parenthesis"},
      {"peft_pissa", false, set("init_lora_weights", "pissa"), kNot, "'init_lora_weights' is 'pissa'"},
      {"peft_pissa_niter", false, set("init_lora_weights", "pissa_niter_16"), kNot, "unconverted"},
      {"peft_olora", false, set("init_lora_weights", "olora"), kNot, "unconverted"},
      {"peft_corda", false, set("init_lora_weights", "corda"), kNot, "unconverted"},
      {"peft_loftq", false, set("init_lora_weights", "loftq"), kNot, "unconverted"},
      {"peft_other_init", false, set("init_lora_weights", "newest"), kNot, "unknown value 'newest'"},
      {"peft_parameters", false, set("target_parameters", {"mlp.weight"}), kNot,
       "'target_parameters': expected gate_up_proj and down_proj of experts, got 'mlp.weight'"},
      {"peft_parameter_rank", false,
       [](Directory& d) {
         d.config["target_parameters"] = {"mlp.experts.down_proj"};
         add(kPeft + layer(0, "mlp.experts.lora_A.weight"), {5, 4})(d);
         add(kPeft + layer(0, "mlp.experts.lora_B.weight"), {6, 5})(d);
       },
       kFile, "a multiple of the rank 2 of the config"},
      {"peft_parameter_unnamed", false,
       [](Directory& d) {
         add(kPeft + layer(0, "mlp.experts.lora_A.weight"), {6, 4})(d);
         add(kPeft + layer(0, "mlp.experts.lora_B.weight"), {6, 6})(d);
       },
       kConfig, "'target_modules': expected every module that has factors"},
      {"peft_token_indices", false, set("trainable_token_indices", {1, 2}), kNot, "'trainable_token_indices'"},
      {"peft_replication", false, set("layer_replication", {{0, 4}, {2, 5}}), kNot, "'layer_replication'"},
      {"peft_alora", false, set("alora_invocation_tokens", {1}), kNot, "'alora_invocation_tokens'"},
      {"peft_qalora", false, set("use_qalora", true), kNot, "'use_qalora'"},
      {"peft_arrow", false, set("arrow_config", {{"top_k", 3}}), kNot, "'arrow_config'"},
      {"peft_unknown", false, set("use_next_years_lora", true), kNot,
       "unknown key 'use_next_years_lora' may change the result"},
      {"peft_dora_and_lora_bias", false, [](Directory& d) { d.config["use_dora"] = d.config["lora_bias"] = true; },
       kNot, "'lora_bias' with 'use_dora'"},
      {"peft_bias_word", false, set("bias", "some"), kConfig, "'bias': expected none, all or lora_only"},
      {"peft_tying", false,
       [](Directory& d) {
         d.config["ensure_weight_tying"] = true;
         d.config["modules_to_save"] = {"lm_head"};
         add(kPeft + "lm_head.weight", {9, 4})(d);
       },
       kNot, "'ensure_weight_tying'"},
  };
}

class Malformed : public ::testing::TestWithParam<Bad> {};
INSTANTIATE_TEST_SUITE_P(All, Malformed, ::testing::ValuesIn(cases()),
                         [](const auto& p) { return std::string(p.param.name); });

TEST_P(Malformed, IsRefusedByName) {
  const Bad& bad = GetParam();
  const test::TemporaryDirectory scratch;
  const auto directory = scratch.path() / "adapter";
  Directory d = bad.mlx ? mlx_directory() : peft_directory();
  bad.spoil(d);
  d.write(directory);
  if (bad.after) bad.after(directory);
  try {
    read_adapter(directory);
    ADD_FAILURE() << "nothing was thrown; expected an error with: " << bad.part;
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_EQ(e.code(), bad.code) << text;
    EXPECT_NE(text.find(bad.part), std::string::npos) << text << "\nexpected it to hold: " << bad.part;
    EXPECT_NE(text.find(scratch.path().string()), std::string::npos) << "no file is named: " << text;
    EXPECT_LT(text.size(), 2500u) << text;
  }
}

TEST(MalformedAdapters, AreMany) { EXPECT_GE(cases().size(), 60u); }

}  // namespace
}  // namespace bumblebee::lora
