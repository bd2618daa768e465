// What the configs of all decoder families share: sizes, norms, rope, and the refusal of settings that nobody here
// implements.
#pragma once

#include <initializer_list>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "models/decoder.h"

namespace bumblebee::models {

constexpr int64_t kMaxSize = int64_t{1} << 24;  // of a dimension
constexpr int64_t kMostExpertsOfRow = 1024;     // a step's rows times these fit an int

/// Settings that families with experts read.
inline const std::vector<std::string_view> kExpertCounts = {"num_experts", "num_local_experts"};

/// Sizes that a family has where its config says none of them.
struct DefaultSizes {
  int d_model = 0, layers = 0, heads = 0, kv_heads = 0, d_ff = 0, vocab = 0;
};

struct FamilyDefaults {
  double eps = 1e-6;
  double theta = 10000;
  int context = 2048;         // max_position_embeddings
  double rotary = 1;          // of a head; below 1, configs may say another
  int head_dim = 0;           // 0: what heads leave of hidden_size
  bool only_experts = false;  // no layer has an MLP, and configs need not say how wide it would be
  /// Settings that only this family reads, of those that are refused elsewhere.
  std::vector<std::string_view> implemented = {};
  /// Where a config has none of hidden_size, num_hidden_layers and num_attention_heads, as text halves of models that
  /// see (Llava's) have it; otherwise these are required.
  std::optional<DefaultSizes> sizes = {};
  /// Of heads only `qk_rope_head_dim` is read, what rotates of them, and taken for the head_dim.
  bool latent = false;
};

/// Reads sizes, eps, tie, activation and rope; windows are all 0. Throws as read_spec().
DecoderSpec read_common(const Json& config, std::string_view where, const FamilyDefaults& defaults);

/// The layers of a Qwen mixture of experts that have experts: every `decoder_sparse_step`-th, but for
/// `mlp_only_layers`.
std::vector<bool> read_expert_layers(const Json& config, std::string_view where, int layers);

/// Reads the number of experts from `keys`, which may not disagree, and how many of them a row passes
/// (`num_experts_per_tok`), each with its default.
void read_expert_counts(const Json& config, std::string_view where, std::initializer_list<const char*> keys,
                        int default_experts, int default_of_row, DecoderSpec& spec);

/// Reads the gated delta nets of Qwen3-Next and its like into `spec`, with the caches of its layers: which of them are
/// recurrent say `layer_types` or, without that, `full_attention_interval`.
void read_delta(const Json& config, std::string_view where, const DeltaSpec& defaults, DecoderSpec& spec);

/// Gives `window` to the layers that `layer_types` calls sliding_attention; false where there is no such list.
bool read_layer_windows(const Json& config, std::string_view where, int window, DecoderSpec& spec);

/// Sets the windows of Qwen2 and Qwen3: `layer_types` when given, else layers from `max_window_layers` on, when
/// `use_sliding_window`.
void read_qwen_windows(const Json& config, std::string_view where, DecoderSpec& spec);

/// Throws Error(unsupported) when `layer_types` asks for anything but full attention.
void refuse_layer_types(const Json& config, std::string_view where);

}  // namespace bumblebee::models
