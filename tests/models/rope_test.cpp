// Inverse frequencies against the formulas in double, and every setting that must be refused. The goldens of
// tests/models check the same against transformers.
#include "models/rope.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <cmath>
#include <numbers>
#include <tuple>

#include "base/error.h"
#include "base/log.h"

namespace bumblebee::models {
namespace {

constexpr int kDim = 16, kContext = 512;

Rope read_whole(const std::string& text) {
  return read_rope(parse_json(text, "config.json"), "config.json", kDim, kContext, 10000);
}

RopeParams read(const char* text) { return read_whole(text).params; }

std::string refusal(const char* text, ErrorCode code) {
  try {
    read(text);
  } catch (const Error& e) {
    EXPECT_EQ(to_string(e.code()), to_string(code)) << e.what();
    EXPECT_EQ(std::string(e.what()).find("[config.json] "), 0u);
    return e.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

/// A power and a division in f32: three roundings.
void expect_near(float got, double want) { EXPECT_NEAR(double(got), want, std::abs(want) * 3 * 0x1p-24); }

double plain(double theta, size_t i) { return std::pow(theta, -2.0 * double(i) / kDim); }

TEST(Rope, DefaultIsAPowerOfTheta) {
  for (const auto& [text, theta] : {std::pair("{}", 10000.0),
                                    {R"({"rope_theta": 500000})", 500000.0},
                                    {R"({"rope_scaling": null, "rope_theta": 1e6})", 1e6},
                                    {R"({"rope_parameters": {"rope_type": "default", "rope_theta": 2e5}})", 2e5},
                                    {R"({"rope_scaling": {"type": "default"}})", 10000.0}}) {
    const RopeParams rope = read(text);
    EXPECT_EQ(rope.dims, kDim);
    EXPECT_EQ(rope.attention_factor, 1.0f);
    ASSERT_EQ(rope.inv_freq.size(), size_t(kDim / 2));
    for (size_t i = 0; i < rope.inv_freq.size(); ++i) expect_near(rope.inv_freq[i], plain(theta, i));
  }
}

TEST(Rope, LinearDividesEveryFrequency) {
  for (const char* text : {R"({"rope_scaling": {"type": "linear", "factor": 2.5}})",
                           R"({"rope_scaling": {"rope_type": "linear", "factor": 2.5}})",
                           R"({"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000}})"}) {
    const RopeParams rope = read(text);
    for (size_t i = 0; i < rope.inv_freq.size(); ++i) expect_near(rope.inv_freq[i], plain(10000, i) / 2.5);
    EXPECT_EQ(rope.attention_factor, 1.0f);
  }
}

TEST(Rope, Llama3KeepsHighFrequenciesAndDividesLowOnes) {
  const RopeParams rope =
      read(R"({"rope_theta": 500000, "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                                   "high_freq_factor": 4, "original_max_position_embeddings": 64}})");
  int kept = 0, divided = 0, between = 0;
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    const double f = plain(500000, i), wavelength = 2 * std::numbers::pi / f;
    double want = f;
    if (wavelength > 64.0) {
      want = f / 8;
      ++divided;
    } else if (wavelength >= 16.0) {
      const double smooth = (64 / wavelength - 1) / 3;
      want = (1 - smooth) * f / 8 + smooth * f;
      ++between;
    } else {
      ++kept;
    }
    EXPECT_NEAR(double(rope.inv_freq[i]), want, f * 8 * 0x1p-24) << i;
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(divided, 0);
  EXPECT_GT(between, 0);
}

TEST(Rope, YarnScalesTheMagnitude) {
  const std::string head =
      R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 128)";
  EXPECT_FLOAT_EQ(read((head + "}}").c_str()).attention_factor, float(0.1 * std::log(4.0) + 1));
  EXPECT_FLOAT_EQ(read((head + R"(, "attention_factor": 1.25}})").c_str()).attention_factor, 1.25f);
  EXPECT_FLOAT_EQ(read((head + R"(, "mscale": 2, "mscale_all_dim": 1}})").c_str()).attention_factor,
                  float((0.2 * std::log(4.0) + 1) / (0.1 * std::log(4.0) + 1)));
  const RopeParams rope = read((head + "}}").c_str());
  expect_near(rope.inv_freq.front(), 1);  // fast rotations stay
  EXPECT_NEAR(double(rope.inv_freq.back()), plain(10000, kDim / 2 - 1) / 4,
              plain(10000, kDim / 2 - 1) * 4 * 0x1p-24);  // slow ones are divided
}

TEST(Rope, RefusesTypesThatAreNotImplemented) {
  for (const char* type : {"proportional", "", "LINEAR"}) {
    const std::string text = cat(R"({"rope_scaling": {"rope_type": ")", type, R"(", "factor": 2}})");
    EXPECT_NE(refusal(text.c_str(), ErrorCode::unsupported).find(cat("got '", type, "'")), std::string::npos);
    const std::string older = cat(R"({"rope_scaling": {"type": ")", type, R"(", "factor": 2}})");
    refusal(older.c_str(), ErrorCode::unsupported);
    const std::string newer = cat(R"({"rope_parameters": {"rope_type": ")", type, R"(", "rope_theta": 10000}})");
    refusal(newer.c_str(), ErrorCode::unsupported);
  }
}

TEST(Rope, PlacesAddUp) {
  const auto same = [](const char* text, const char* as) {
    const Rope got = read_whole(text), want = read_whole(as);
    EXPECT_EQ(got.params.inv_freq, want.params.inv_freq) << text;
    EXPECT_EQ(got.params.attention_factor, want.params.attention_factor) << text;
    EXPECT_EQ(got.context, want.context) << text;
  };
  const char* yarn = R"({"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": null}})";
  // Saved by transformers 5, and scaling added as the model's card says.
  same(
      R"({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_scaling": {"type": "yarn", "factor": 4}})",
      yarn);
  same(R"({"rope_parameters": {"rope_type": "yarn", "factor": 4, "rope_theta": 1e6}, "rope_scaling": null})", yarn);
  same(R"({"rope_parameters": {"rope_type": "yarn", "factor": 4, "rope_theta": 1e6}, "rope_theta": 1000000,
           "rope_scaling": {"type": "yarn", "rope_type": "yarn", "factor": 4.0}})",
       yarn);
  same(R"({"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": {"rope_type": "yarn", "factor": 4}})", yarn);
  same(
      R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "rope_theta": 1e6, "original_max_position_embeddings": 512}})",
      yarn);
  same(
      R"({"rope_theta": 1e6, "original_max_position_embeddings": 512, "rope_scaling": {"rope_type": "yarn", "factor": 4}})",
      yarn);
  // A configuration's rope_scaling as transformers 5 has it, written down by a tool.
  same(R"({"rope_scaling": {"rope_theta": 5e5, "rope_type": "default"}})", R"({"rope_theta": 5e5})");
  same(R"({"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4, "rope_theta": 1e6},
                               "sliding_attention": {"type": "yarn", "factor": 4, "rope_theta": 1e6}}})",
       yarn);
  same(
      R"({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}, "sliding_attention": null}})",
      R"({"rope_theta": 5e5})");
  same(R"({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}})", "{}");
  same(R"({"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}})", "{}");
}

TEST(Rope, PlacesThatDisagreeAreBothNamed) {
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {R"({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})", "'rope_theta'",
       "'rope_parameters.rope_theta'"},
      {R"({"rope_theta": 1e4, "rope_scaling": {"rope_type": "default", "rope_theta": 1e6}})", "'rope_theta'",
       "'rope_scaling.rope_theta'"},
      {R"({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"rope_type": "linear", "factor": 2, "rope_theta": 1e6}})",
       "'rope_parameters.rope_theta'", "'rope_scaling.rope_theta'"},
      {R"({"rope_parameters": {"rope_type": "yarn", "factor": 4}, "rope_scaling": {"rope_type": "linear", "factor": 4}})",
       "'rope_parameters.rope_type'", "'rope_scaling.rope_type'"},
      {R"({"rope_parameters": {"rope_type": "yarn", "factor": 4}, "rope_scaling": {"rope_type": "default"}})",
       "'rope_parameters.rope_type'", "'rope_scaling.rope_type'"},
      {R"({"rope_parameters": {"rope_type": "yarn", "factor": 4}, "rope_scaling": {"rope_type": "yarn", "factor": 2}})",
       "'rope_parameters.factor'", "'rope_scaling.factor'"},
      {R"({"original_max_position_embeddings": 64,
           "rope_scaling": {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 128}})",
       "'original_max_position_embeddings'", "'rope_scaling.original_max_position_embeddings'"},
      {R"({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}})", "'rope_scaling.type'",
       "'rope_scaling.rope_type'"},
  };
  for (const auto& [text, one, other] : cases) {
    const std::string message = refusal(text, ErrorCode::bad_config);
    EXPECT_NE(message.find(one), std::string::npos) << message;
    EXPECT_NE(message.find(other), std::string::npos) << message;
  }
  const std::string layers = refusal(
      R"({"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}})",
      ErrorCode::unsupported);
  EXPECT_NE(layers.find("'rope_parameters.full_attention' and 'rope_parameters.sliding_attention'"), std::string::npos);
}

TEST(Rope, WhatStretchesTheContextLengthensIt) {
  const auto context = [](const char* scaling) {
    return read_whole(cat(R"({"rope_scaling": )", scaling, "}")).context;
  };
  EXPECT_EQ(context("null"), kContext);
  EXPECT_EQ(context(R"({"type": "yarn", "factor": 4})"), 4 * kContext);
  EXPECT_EQ(context(R"({"type": "yarn", "factor": 4, "original_max_position_embeddings": 256})"), 1024);
  EXPECT_EQ(context(R"({"type": "yarn", "factor": 1.25, "original_max_position_embeddings": 100})"), kContext);
  EXPECT_EQ(context(R"({"type": "yarn", "factor": null, "original_max_position_embeddings": 128})"), kContext);
  EXPECT_EQ(context(R"({"type": "linear", "factor": 2.5})"), 1280);
  EXPECT_EQ(context(R"({"type": "linear", "factor": 1024})"), 1024 * kContext);
  for (const char* text : {R"({"rope_scaling": {"type": "linear", "factor": 1e30}})",
                           R"({"rope_scaling": {"type": "yarn", "factor": 1025}})"})
    EXPECT_NE(refusal(text, ErrorCode::bad_config).find("at most 1024 times"), std::string::npos) << text;
  // max_position_embeddings of Llama 3.1 and later is the stretched length already.
  EXPECT_EQ(context(R"({"type": "llama3", "factor": 32, "original_max_position_embeddings": 64})"), kContext);
}

TEST(Rope, SaysWhichContextItTook) {
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told += line; }, LogLevel::warning);
  read_whole(R"({"rope_scaling": {"type": "linear", "factor": 2, "original_max_position_embeddings": 256}})");
  EXPECT_EQ(told, "");
  read_whole(R"({"rope_scaling": {"type": "linear", "factor": 2.5}})");
  set_log_sink({});
  EXPECT_NE(told.find("context taken for 1280, 'max_position_embeddings' 512"), std::string::npos) << told;
}

TEST(Rope, DynamicScalingIsThePlainOneWithinTheContext) {
  const Rope got = read_whole(R"({"rope_scaling": {"type": "dynamic", "factor": 2}})"), plain = read_whole("{}");
  EXPECT_EQ(got.params.inv_freq, plain.params.inv_freq);
  EXPECT_EQ(got.context, kContext) << "beyond it the table would depend on the sequence";
}

TEST(Rope, RefusesWhatItDoesNotKnow) {
  EXPECT_NE(refusal(R"({"rope_parameters": {"rope_type": "yarn", "factor": 4, "llama_4_scaling_beta": 0.1}})",
                    ErrorCode::unsupported)
                .find("'rope_parameters.llama_4_scaling_beta'"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"rope_scaling": {"factor": 4}})", ErrorCode::bad_config).find("'rope_type'"),
            std::string::npos);
}

TEST(Rope, RefusesPartsOfHeads) {
  for (const char* text : {R"({"partial_rotary_factor": 0.5})",
                           R"({"rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 10000}})",
                           R"({"rope_scaling": {"type": "default", "partial_rotary_factor": 0.25}})"}) {
    EXPECT_NE(refusal(text, ErrorCode::unsupported).find("partial_rotary_factor"), std::string::npos);
  }
  EXPECT_EQ(read(R"({"partial_rotary_factor": 1.0})").dims, kDim);
}

TEST(Rope, RefusesValuesOutOfRange) {
  for (const char* text :
       {R"({"rope_theta": 0})", R"({"rope_theta": -5})", R"({"rope_theta": 1})", R"({"rope_theta": "10000"})",
        R"({"rope_scaling": "linear"})", R"({"rope_scaling": [1]})",
        R"({"rope_scaling": {"type": "linear", "factor": null}})", R"({"rope_scaling": {"type": "dynamic"}})",
        R"({"rope_scaling": {"type": "linear"}})", R"({"rope_scaling": {"type": "linear", "factor": 0}})",
        R"({"rope_scaling": {"type": "linear", "factor": "2"}})", R"({"rope_scaling": {"type": 3}})",
        R"({"rope_scaling": {"rope_type": "yarn"}})", R"({"rope_scaling": {"rope_type": "yarn", "factor": -1}})",
        R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}})",
        R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 0}})"}) {
    EXPECT_NE(refusal(text, ErrorCode::bad_config), "") << text;
  }
}

}  // namespace
}  // namespace bumblebee::models
