// Rotary position settings of a config, turned into one table of inverse frequencies. Types that are not implemented
// are refused by name: a wrong rotation gives plausible nonsense on long texts.
#pragma once

#include "backend/ops.h"
#include "base/json.h"

namespace bumblebee::models {

struct Rope {
  RopeParams params;
  /// What DeepSeek's families multiply scores by where a context is stretched (`mscale_all_dim`).
  double score_scale = 1;
  int context = 0;  // longer than max_position_embeddings where linear or yarn scaling stretches it
  /// Of longrope, for texts longer than `context`, up to `long_context`; empty: there is none.
  std::vector<float> long_inv_freq = {};
  int long_context = 0;
};

/// Reads `rope_theta`, `rope_scaling` and transformers 5's `rope_parameters` together; places that disagree are
/// refused. Types: default, linear, dynamic (as far as it is the default's), llama3 (Llama 3.1), yarn (Peng et al.,
/// 2023), longrope (Phi-3: by its short factors, for texts as long as `original_max_position_embeddings`, which becomes
/// the context; by its long ones beyond that, from the first token on). Arithmetic is f32 in the order transformers
/// uses, so that angles agree to the last bit or nearly. `context` is max_position_embeddings, `default_theta` and
/// `default_rotary` (the part of a head that is rotated) what the family uses when the config says nothing; where that
/// is the whole head, a config that says less is refused but for `any_rotary`.
Rope read_rope(const Json& config, std::string_view where, int head_dim, int context, double default_theta,
               double default_rotary = 1, bool any_rotary = false);

/// A rotation that must be the same for texts of all lengths: throws Error(unsupported) for longrope.
RopeParams one_rotation(Rope rope, std::string_view where);

/// Keys of the top level that older configs have for one kind of layers, or null: of theta, of scaling.
struct RopeKeys {
  const char *theta = nullptr, *scaling = nullptr;
};

/// What a config whose kinds of layers rotate differently says of "full_attention" or "sliding_attention" layers, for
/// read_rope(): its part of `rope_parameters` and what `top` names, or else `defaults`.
Json rope_settings_of_kind(const Json& config, std::string_view where, const char* kind, const RopeKeys& top,
                           const Json& defaults);

/// Gemma 4's type, which read_rope() refuses: the first part of a head's pairs turns as if the whole did, the others
/// stay, with frequencies of zero.
RopeParams read_proportional_rope(const Json& config, std::string_view where, int head_dim, double default_theta);

}  // namespace bumblebee::models
