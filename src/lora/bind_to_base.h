// Holds an adapter against a base: every module must exist there, be of a kind that the change is for, and have its
// sizes. An adapter that fits only in part would run and be wrong, so it is refused with the names of what does not
// fit.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "lora/adapter.h"
#include "nn/model.h"

namespace bumblebee::lora {

struct Base {
  std::vector<nn::TargetModule> target_modules;  // Model::target_modules()
  bool tied_head = false;                        // the head multiplies by the embedding's table
  std::string name;                              // for messages
};

/// A module's name inside the text model, where a packaging calls it otherwise: the text half of a model with vision is
/// "language_model.model...." in MLX's files and "model.language_model...." in transformers'.
std::string plain_path(std::string_view path);

/// What an adapter does to each module of a base. Points into the adapter, which outlives it: nothing is copied.
struct BoundAdapter {
  const Adapter* adapter = nullptr;
  std::map<std::string, const ModuleDelta*> modules;        // by path, as in the base; stacks of experts are in
  std::map<std::string, std::vector<FactorView>> experts;   // this, with the factors of each expert
  std::vector<std::unique_ptr<const ModuleDelta>> derived;  // changes of a tied head that follow from the embedding's
  std::set<std::string> of_heads;                           // those of `experts` that are products of heads
  std::vector<std::unique_ptr<const std::vector<float>>> transposed;  // what their factors point into
};

/// The adapter as it acts on this base: the same, but where the head is tied. mlx-lm then applies a change of the
/// embedding to the head too, which becomes an `lm_head` entry of its own here. PEFT leaves the head as it was, except
/// that a saved copy of the base's own embedding (`shared_weight`) is the head's as well.
/// Factors of experts may come as a stack or module by module ("mlp.experts.3.gate_proj"); an expert that has none is
/// left as it is. Factors of `kv_b_proj`, which makes keys and values of latents, become those of each head of
/// `embed_q` and `unembed_out`, which is what models compute with: exactly, as W + ΔW of such a head is a part of that
/// of kv_b_proj, or its transpose. Throws Error(unsupported) for what is more than factors there (DoRA, whole weights).
/// Throws Error(bad_request) listing up to eight modules and the count when any of them does not fit, and when there is
/// none at all.
BoundAdapter bind_to_base(const Adapter& adapter, const Base& base);
BoundAdapter bind_to_base(Adapter&& adapter, const Base& base) = delete;  // it would not outlive what points into it

}  // namespace bumblebee::lora
