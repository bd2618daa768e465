// What is refused before any weight is read, and in which words.
#include "backend/registry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "base/error.h"

namespace bumblebee {
namespace {

std::string refusal(std::string_view name, const std::vector<Format>& formats) {
  try {
    require_device(name, formats);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::device);
    return e.what();
  }
  return "";
}

TEST(Registry, ListsTheDefaultFirstAndTheReference) {
  std::vector<std::string> names;
  for (const BackendEntry& entry : backends()) names.emplace_back(entry.name);
  ASSERT_GE(names.size(), 2u);
  EXPECT_EQ(names.front(), "cpu");
  EXPECT_NE(std::find(names.begin(), names.end(), "ref"), names.end());
}

TEST(Registry, EveryPresentBackendStartsWithEachOfItsInstructionSets) {
  for (const BackendEntry& entry : backends()) {
    if (!entry.absent(0).empty()) continue;
    EXPECT_FALSE(entry.describe(0).empty());
    const std::vector<std::string> sets = entry.instruction_sets(0);
    ASSERT_FALSE(sets.empty()) << entry.name;
    EXPECT_TRUE(entry.own_memory || sets.back() == "scalar") << entry.name;
    for (const std::string& set : sets) {
      BackendOptions options;
      options.threads = 1;
      options.instruction_set = set;
      EXPECT_EQ(entry.create(options)->name(), entry.name);
    }
  }
}

TEST(Registry, EveryBackendHereMultipliesByEveryFormat) {
  std::vector<Format> formats = {Format::dense(DType::f32), Format::dense(DType::f16), Format::dense(DType::bf16)};
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) formats.push_back(Format::affine(bits, group, DType::bf16, DType::f32));
  }
  EXPECT_EQ(refusal("cpu", formats), "");
  EXPECT_EQ(refusal("ref", formats), "");
  EXPECT_EQ(require_device("cpu", formats).entry->name, "cpu");
  EXPECT_EQ(require_device("cpu:0", formats).index, 0);
}

TEST(Registry, RefusesAnAbsentDeviceNamingOperationDeviceAndAlternatives) {
  const std::string text = refusal("tpu", {Format::affine(4, 64, DType::f16, DType::f16)});
  EXPECT_NE(text.find("'tpu'"), std::string::npos) << text;
  EXPECT_NE(text.find("matmul(affine 4-bit group 64 (f16))"), std::string::npos) << text;
  EXPECT_NE(text.find("devices that can: cpu, ref"), std::string::npos) << text;
  EXPECT_NE(refusal("", {}).find("no such device"), std::string::npos);
  EXPECT_NE(refusal("CPU", {}).find("no such device"), std::string::npos);
}

TEST(Registry, RefusesADeviceThatLacksAnOperation) {
  BackendEntry plain = backends().front();  // the one that is there on every machine
  plain.name = "plain";
  plain.lacking = {Operation::matmul_experts};
  register_backend(plain);
  EXPECT_EQ(require_device("plain", {}).entry->name, "plain");
  const std::array needed = {Operation::matmul_experts};
  EXPECT_EQ(require_device("cpu", {}, 0, needed).entry->name, "cpu");
  try {
    require_device("plain", {}, 0, needed);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::device);
    const std::string text = e.what();
    EXPECT_NE(text.find("operation matmul_experts is not available on device 'plain'"), std::string::npos) << text;
    EXPECT_EQ(text.find("plain", text.find("devices that can")), std::string::npos) << text;
  }
}

TEST(Registry, RefusesADeviceNumberThatIsNotThere) {
  EXPECT_NE(refusal("cpu:1", {}).find("expected a number below 1, got 1"), std::string::npos);
  EXPECT_NE(refusal("cpu:", {}).find("no such device"), std::string::npos);
  EXPECT_NE(refusal("cpu:-1", {}).find("no such device"), std::string::npos);
  EXPECT_NE(refusal("cpu:0x", {}).find("no such device"), std::string::npos);
}

TEST(Registry, RefusesWhatTheMemoryOfADeviceCannotHold) {
  const uint64_t there = backends().front().memory_bytes(0);
  ASSERT_GT(there, 0u);
  require_device("cpu", {}, there);
  try {
    require_device("cpu", {}, there + 1);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::out_of_memory);
    EXPECT_NE(std::string(e.what()).find(std::to_string(there + 1)), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find(std::to_string(there)), std::string::npos) << e.what();
  }
}

TEST(Registry, RefusesFormatsThatOnlyTheTypesKnow) {
  Format floats = Format::affine(4, 32, DType::bf16, DType::bf16);
  floats.codes = Format::Codes::e2m1;
  floats.biased = false;
  EXPECT_NE(refusal("cpu", {floats}).find("matmul(affine 4-bit e2m1 group 32 (bf16, no bias)) is not available"),
            std::string::npos);
  EXPECT_NE(refusal("ref", {floats}).find("devices that can: none"), std::string::npos);
}

TEST(Registry, AnUnknownInstructionSetIsRefusedByName) {
  BackendOptions options;
  options.instruction_set = "avx1024";
  try {
    require_device("cpu", {}).entry->create(options);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("avx1024"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("scalar"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace bumblebee
