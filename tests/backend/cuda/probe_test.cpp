// What people are told when there is no card to use.
#include "backend/cuda/probe.h"

#include <gtest/gtest.h>

namespace bumblebee::cuda {
namespace {

const Probe kFine = {
    .driver = 13000, .runtime = 13000, .devices = 1, .error = "", .name = "Card", .major = 9, .minor = 0};

std::string text_with(void (*change)(Probe&)) {
  Probe probe = kFine;
  change(probe);
  return absent_text(probe);
}

TEST(Probe, SaysNothingWhenThereIsACard) {
  EXPECT_EQ(absent_text(kFine), "");
  EXPECT_EQ(text_with([](Probe& p) { p.driver = 13020; }), "");
  EXPECT_EQ(text_with([](Probe& p) { p.runtime = 13010; }), "") << "minor versions go together";
  EXPECT_EQ(text_with([](Probe& p) { p.driver = 14000; }), "");
  EXPECT_EQ(text_with([](Probe& p) { p.major = 8; }), "");
}

TEST(Probe, NamesWhatIsMissing) {
  EXPECT_EQ(text_with([](Probe& p) { p.driver = 0; }), "no NVIDIA driver was found on this machine");
  EXPECT_EQ(text_with([](Probe& p) { p.devices = 0; }), "there is a driver, but no NVIDIA GPU");
  EXPECT_EQ(text_with([](Probe& p) { p.driver = 12040; }),
            "the NVIDIA driver is too old: expected one for CUDA 13.0 or newer, got one for CUDA 12.4");
  EXPECT_EQ(text_with([](Probe& p) { p.major = 7, p.minor = 5; }),
            "Card is too old: expected compute capability 8.0 or newer, got 7.5");
  EXPECT_EQ(text_with([](Probe& p) { p.error = "out of order"; }), "the NVIDIA driver answers: out of order");
}

}  // namespace
}  // namespace bumblebee::cuda
