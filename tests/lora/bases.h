// The base that the small adapters of adapter_files.h are for, and what is expected of those that do not fit one.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "lora/bind_to_base.h"
#include "tests/lora/adapter_files.h"

namespace bumblebee::lora::testing {

/// The base that the directories of adapter_files.h are for.
inline Base base(int layers = 2, bool tied = false) {
  using Kind = nn::TargetModule::Kind;
  Base base{{{"model.embed_tokens", 9, 4, Kind::embedding, false}}, tied, "base"};
  for (int i = 0; i < layers; ++i) {
    base.target_modules.push_back({layer(i, "input_layernorm"), 4, 4, Kind::norm, false});
    base.target_modules.push_back({layer(i, "self_attn.q_proj"), 4, 6, Kind::linear, true});
    base.target_modules.push_back({layer(i, "mlp.down_proj"), 5, 4, Kind::linear, false});
  }
  base.target_modules.push_back({"lm_head", 4, 9, Kind::linear, false});
  return base;
}

inline void expect_misfit(Adapter adapter, const Base& on, const std::string& part) {
  adapter.name = "mine";
  try {
    bind_to_base(adapter, on);
    ADD_FAILURE() << "it fits; expected an error with: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::bad_request);
    const std::string text = e.what();
    EXPECT_NE(text.find(part), std::string::npos) << text << "\nexpected: " << part;
    EXPECT_NE(text.find("adapter 'mine' does not fit the base 'base'"), std::string::npos) << text;
  }
}

}  // namespace bumblebee::lora::testing
