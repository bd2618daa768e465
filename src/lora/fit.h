// Holds an adapter against a base: every module must exist there, be of a kind that the change is for, and have its
// sizes. An adapter that fits only in part would run and be wrong, so it is refused with the names of what does not
// fit.
#pragma once

#include <string>
#include <vector>

#include "lora/adapter.h"
#include "nn/model.h"

namespace bumblebee::lora {

struct Base {
  std::vector<nn::Site> sites;  // Model::sites()
  bool tied_head = false;       // the head multiplies by the embedding's table
  std::string name;             // for messages
};

/// The adapter as it acts on this base: the same, but where the head is tied. mlx-lm then applies a change of the
/// embedding to the head too, which becomes an `lm_head` entry of its own here. PEFT leaves the head as it was, except
/// that a saved copy of the base's own embedding (`shared_weight`) is the head's as well.
/// Throws Error(bad_request) listing up to eight modules and the count when any of them does not fit, and when there is
/// none at all.
Adapter fit(Adapter adapter, const Base& base);

}  // namespace bumblebee::lora
