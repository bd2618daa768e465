// Tests that need the card of this machine; without one they pass, and Card.IsThereOrSaysWhyNot speaks.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "backend/registry.h"

namespace bumblebee {

/// Null without a card.
inline const BackendEntry* card() {
  for (const BackendEntry& entry : backends()) {
    if (entry.name == "cuda" && entry.absent(0).empty()) return &entry;
  }
  return nullptr;
}

class OnCard : public testing::Test {
 protected:
  void SetUp() override {
    if (card() == nullptr) return;
    backend_ = card()->create({.instruction_set = {}});
  }
  std::unique_ptr<Backend> backend_;
};

}  // namespace bumblebee
