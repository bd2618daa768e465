// The rules of `quantization`, one by one, as mlx-lm applies them.
#include <nlohmann/json.hpp>

#include "io/hf_config.h"

#include "tests/io/files.h"

namespace bumblebee {
namespace {

using test::expect_error;

QuantizationConfig config(const std::string& text) { return HfConfig::parse(text, "config.json").quantization; }

TEST(HfConfig, NothingSaidIsNothingQuantized) {
  for (const char* text : {"{}", R"({"quantization":null})", R"({"quantization_config":null})",
                           R"({"quantization_config":{}})", R"({"quantization_config":false})"}) {
    EXPECT_FALSE(config(text).present()) << text;
    EXPECT_EQ(config(text).resolve("lm_head"), std::nullopt) << text;
  }
}

TEST(HfConfig, TopLevelAndItsDefaults) {
  EXPECT_EQ(config(R"({"quantization":{"group_size":32,"bits":8}})").resolve("x"), (QuantSpec{8, 32}));
  EXPECT_EQ(config(R"({"quantization":{"group_size":32,"bits":8,"mode":"affine"}})").resolve("x"), (QuantSpec{8, 32}));
  EXPECT_EQ(config(R"({"quantization":{"group_size":null,"bits":null,"mode":null}})").resolve("x"), (QuantSpec{4, 64}));
  EXPECT_EQ(config(R"({"quantization":{}})").resolve("x"), (QuantSpec{4, 64}));
  EXPECT_EQ(config(R"({"quantization":{"bits":3}})").rule("x").says, QuantizationConfig::Says::top_level);
}

TEST(HfConfig, EntriesDoNotInherit) {
  const auto c = config(
      R"({"quantization":{"group_size":128,"bits":8,"a":{"bits":6},"b":{"group_size":32},"c":{"bits":null,"group_size":null,"mode":"affine"},
                            "d":true,"e":false,"f":null,"g":{}}})");
  EXPECT_EQ(c.resolve("a"), (QuantSpec{6, 64}));
  EXPECT_EQ(c.resolve("b"), (QuantSpec{4, 32}));
  EXPECT_EQ(c.resolve("c"), (QuantSpec{4, 64}));
  EXPECT_EQ(c.resolve("d"), (QuantSpec{8, 128}));
  EXPECT_EQ(c.rule("d").says, QuantizationConfig::Says::quantized);
  for (const char* dense : {"e", "f", "g"}) {  // what Python reads as false
    EXPECT_EQ(c.resolve(dense), std::nullopt) << dense;
    EXPECT_EQ(c.rule(dense).says, QuantizationConfig::Says::dense) << dense;
  }
  EXPECT_EQ(c.resolve("not.listed"), (QuantSpec{8, 128}));
}

TEST(HfConfig, WhichObjectCounts) {
  EXPECT_EQ(config(R"({"quantization":{"bits":3},"quantization_config":{"quant_method":"awq"}})").resolve("x"),
            (QuantSpec{3, 64}));
  EXPECT_EQ(config(R"({"text_config":{"quantization":{"bits":5}}})").resolve("x"), (QuantSpec{5, 64}));
  EXPECT_EQ(config(R"({"quantization_config":{"bits":8,"group_size":32}})").resolve("x"), (QuantSpec{8, 32}));
}

TEST(HfConfig, FloatCodesHaveTheDefaultsOfTheirMode) {
  EXPECT_EQ(config(R"({"quantization":{"mode":"mxfp4"}})").resolve("x"), (QuantSpec{4, 32, QuantMode::mxfp4}));
  EXPECT_EQ(config(R"({"quantization":{"mode":"mxfp8","bits":null}})").resolve("x"),
            (QuantSpec{8, 32, QuantMode::mxfp8}));
  EXPECT_EQ(config(R"({"quantization":{"mode":"nvfp4","bits":4,"group_size":16}})").resolve("x"),
            (QuantSpec{4, 16, QuantMode::nvfp4}));
  // As gpt-oss has them: what an entry lacks is affine, whatever the top level says.
  const auto c = config(
      R"({"quantization":{"group_size":32,"bits":4,"mode":"mxfp4","a":{"group_size":64,"bits":8},"b":true,
                            "c":{"mode":"nvfp4","global_scale":true}}})");
  EXPECT_EQ(c.resolve("a"), (QuantSpec{8, 64}));
  EXPECT_EQ(c.resolve("b"), (QuantSpec{4, 32, QuantMode::mxfp4}));
  EXPECT_EQ(c.resolve("c"), (QuantSpec{4, 16, QuantMode::nvfp4}));
  EXPECT_TRUE(c.rule("c").global_scale);
}

TEST(HfConfig, MethodsOfOtherToolsWhoseWeightsAreFloats) {
  struct Method {
    const char* text;
    QuantMode mode;
    TensorNames names;
  };
  for (const Method& m : {
           Method{R"({"quant_method":"mxfp4","modules_to_not_convert":["lm_head"]})", QuantMode::mxfp4,
                  TensorNames::mlx},
           Method{R"({"quant_method":"mxfp8"})", QuantMode::mxfp8, TensorNames::mlx},
           Method{R"({"quant_method":"fp8","scale_fmt":"ue8m0","weight_block_size":[32,32]})", QuantMode::mxfp8,
                  TensorNames::blocks},
           Method{R"({"quant_method":"compressed-tensors","format":"mxfp4-pack-quantized"})", QuantMode::mxfp4,
                  TensorNames::compressed_tensors},
           Method{R"({"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized"})", QuantMode::nvfp4,
                  TensorNames::compressed_tensors},
           Method{R"({"quant_method":"modelopt","quant_algo":"NVFP4"})", QuantMode::nvfp4, TensorNames::modelopt},
           Method{R"({"quant_method":"modelopt","quantization":{"quant_algo":"NVFP4","group_size":16}})",
                  QuantMode::nvfp4, TensorNames::modelopt},
       }) {
    for (const char* around : {R"({"quantization_config":)", R"({"text_config":{"quantization_config":)"}) {
      const std::string text = std::string(around) + m.text + (std::string(around).size() > 24 ? "}}" : "}");
      const QuantizationConfig c = config(text);
      EXPECT_EQ(c.top_level().mode, m.mode) << text;
      EXPECT_EQ(c.names(), m.names) << text;
    }
  }
}

TEST(HfConfig, TextConfigIsTheLanguageModel) {
  const auto packed = HfConfig::parse(R"({"a":1,"text_config":{"a":2}})", "config.json");
  EXPECT_EQ(packed.text()["a"], 2);
  EXPECT_EQ(HfConfig::parse(R"({"a":1,"text_config":null})", "config.json").text()["a"], 1);
}

TEST(HfConfig, AValueThatIsNoEntryIsRefusedOnlyForAModuleOfThatName) {
  const auto c = config(R"({"quantization":{"bits":4,"group_size":64,"note":"made by hand","lm_head":"yes"}})");
  EXPECT_EQ(c.resolve("other"), (QuantSpec{4, 64}));
  expect_error([&] { c.resolve("lm_head"); }, "'lm_head'", "string entry");
}

struct Refused {
  const char *text, *part;
};

TEST(HfConfig, RefusesByName) {
  const Refused cases[] = {
      {R"({"quantization":{"mode":"mxfp4","group_size":64}})", "mode mxfp4: expected 4 bits and groups of 32"},
      {R"({"quantization":{"mode":"mxfp4","bits":8}})", "got 8 and 32"},
      {R"({"quantization":{"mode":"mxfp8","bits":4}})", "mode mxfp8: expected 8 bits"},
      {R"({"quantization":{"mode":"nvfp4","group_size":32}})", "mode nvfp4: expected 4 bits and groups of 16"},
      {R"({"quantization":{"mode":"MXFP4"}})", "'MXFP4'"},
      {R"({"quantization":{"mode":"int3.5"}})", "int3.5"},
      {R"({"quantization":{"mode":4}})", "mode"},
      {R"({"quantization":{"a.b":{"mode":"mxfp4","bits":5}}})", "'a.b'"},
      {R"({"quantization":{"a.b":{"mode":"fp4"}}})", "'a.b'"},
      {R"({"quantization":{"bits":7}})", "got 7"},
      {R"({"quantization":{"bits":0}})", "got 0"},
      {R"({"quantization":{"bits":-4}})", "got -4"},
      {R"({"quantization":{"bits":4.5}})", "bits"},
      {R"({"quantization":{"bits":"4"}})", "bits"},
      {R"({"quantization":{"bits":99999999999999}})", "bits"},
      {R"({"quantization":{"group_size":16}})", "got 16"},
      {R"({"quantization":{"group_size":48}})", "got 48"},
      {R"({"quantization":{"group_size":[64]}})", "group_size"},
      {R"({"quantization":{"lm_head":{"bits":1}}})", "'lm_head'"},
      {R"({"quantization":[4,64]})", "quantization"},
      {R"({"quantization":true})", "quantization"},
      {R"({"quantization_config":{"quant_method":"awq","bits":4,"group_size":128}})", "'awq'"},
      {R"({"quantization_config":{"quant_method":"gptq","bits":4,"group_size":128}})", "'gptq'"},
      {R"({"quantization_config":{"quant_method":"compressed-tensors"}})", "'compressed-tensors'"},
      {R"({"quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized"}})",
       "'pack-quantized'"},
      {R"({"quantization_config":{"quant_method":"compressed-tensors","format":"float-quantized"}})",
       "'float-quantized'"},
      {R"({"quantization_config":{"quant_method":"compressed-tensors","format":4}})", "format"},
      {R"({"quantization_config":{"quant_method":"modelopt"}})", "'modelopt'"},
      {R"({"quantization_config":{"quant_method":"modelopt","quant_algo":"FP8"}})", "'FP8'"},
      {R"({"quantization_config":{"quant_method":"modelopt","quantization":{"quant_algo":"W4A16_AWQ"}}})", "W4A16_AWQ"},
      {R"({"quantization_config":{"quant_method":"modelopt","quant_algo":"NVFP4","group_size":32}})", "'32'"},
      {R"({"quantization_config":{"quant_method":"fp8","scale_fmt":"ue8m0"}})", "weight_block_size"},
      {R"({"quantization_config":{"quant_method":"fp8","scale_fmt":"ue8m0","weight_block_size":[128,128]}})",
       "[128,128]"},
      {R"({"quantization_config":{"quant_method":"fp8","scale_fmt":"float","weight_block_size":[32,32]}})", "'float'"},
      {R"({"quantization_config":{"quant_method":"bitsandbytes"}})", "'bitsandbytes'"},
      {R"({"quantization_config":{"quant_method":"fp8"}})", "'fp8'"},
      {R"({"quantization_config":{"quant_method":"bitnet"}})", "'bitnet'"},
      {R"({"quantization_config":{"x":1}})", "quant_method"},
      {R"({"quantization_config":"awq"})", "quantization_config"},
      {R"({"text_config":{"quantization_config":{"quant_method":"awq"}}})", "'awq'"},
      {R"({"quantize_activations":true})", "quantize_activations"},
      {R"({"quantization":{"quantize_activations":true}})", "quantize_activations"},
      {R"({"model_file":"model.py"})", "model.py"},
      {R"([])", "object"},
      {R"({"a":1)", "config.json"},
  };
  for (const Refused& refused : cases) {
    expect_error([&] { config(refused.text); }, refused.part, refused.text);
    expect_error([&] { config(refused.text); }, "config.json", refused.text);
  }
}

}  // namespace
}  // namespace bumblebee
