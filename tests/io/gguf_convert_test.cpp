// A model written by the Python package becomes a checkpoint whose weights, read back, are the original's, row order
// included.
#include "io/gguf_convert.h"

#include <nlohmann/json.hpp>

#include "io/checkpoint.h"
#include "io/gguf_model.h"
#include "quant/elements.h"
#include "tests/io/files.h"

namespace bumblebee {
namespace {

using namespace test;

const std::filesystem::path kTiny = BB_TEST_DATA "/gguf/tiny.gguf";

constexpr double kLargestWeight = 39;  // of the random Q4_K blocks

/// The largest difference between every tensor of the checkpoint and of the file beside the GGUF's.
double difference(Checkpoint& checkpoint, const char* of = BB_TEST_DATA "/gguf/tiny.safetensors") {
  const auto golden = SafetensorsFile::open(of);
  double largest = 0;
  for (const TensorEntry& tensor : golden->tensors()) {
    std::vector<float> expected(size_t(tensor.size_bytes() / 4));
    std::memcpy(expected.data(), golden->bytes(tensor).data(), size_t(tensor.size_bytes()));
    const bool matrix = tensor.shape.size() == 2;
    const int out = matrix ? int(tensor.shape[0]) : 1, in = int(tensor.shape.back());
    const HostWeight weight = matrix ? checkpoint.matrix(tensor.name.substr(0, tensor.name.size() - 7), out, in)
                                     : checkpoint.vector(tensor.name, in);
    std::vector<float> row(size_t(in), 0.0f);
    for (int r = 0; r < out; ++r) {
      decode_row<float>(weight, r, row);
      for (int k = 0; k < in; ++k)
        largest =
            std::max(largest, std::abs(double(row[size_t(k)]) - double(expected[size_t(r) * size_t(in) + size_t(k)])));
    }
  }
  EXPECT_TRUE(checkpoint.unclaimed().empty());
  return largest;
}

const TensorReport& report_of(const ConversionReport& report, const std::string& name) {
  for (const TensorReport& tensor : report.tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("not in the report: " + name);
}

TEST(GgufConvert, KeepsEveryWeight) {
  const TemporaryDirectory d;
  uint64_t last = 0, total = 0;
  GgufConvertOptions options;
  options.dense = DType::f32;
  options.threads = 2;
  const auto report =
      convert_gguf(kTiny, d.path() / "out", options, [&](std::string_view, uint64_t done, uint64_t all) {
        EXPECT_GE(done, last);
        last = done;
        total = all;
      });
  EXPECT_EQ(last, total);
  EXPECT_GT(total, 0u);
  for (const TensorReport& tensor : report.tensors) EXPECT_TRUE(tensor.exact) << tensor.name;
  EXPECT_EQ(report_of(report, "model.layers.0.self_attn.q_proj").target, "affine 4-bit group 32 (f16)");
  EXPECT_EQ(report_of(report, "model.layers.0.self_attn.o_proj").target, "affine 5-bit group 32 (f16)");
  EXPECT_EQ(report_of(report, "model.embed_tokens").target, "affine 8-bit group 32 (f16)");
  EXPECT_EQ(report_of(report, "model.layers.0.self_attn.v_proj.weight").target, "f16");
  auto checkpoint = Checkpoint::open(d.path() / "out");
  EXPECT_EQ(difference(*checkpoint), 0.0);
  const Json& config = checkpoint->config().json;
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_EQ(config["rms_norm_eps"], 1e-5);
  EXPECT_EQ(config["rope_theta"], 10000.0);
  EXPECT_EQ(config["head_dim"], 16);
  EXPECT_EQ(config["num_key_value_heads"], 2);
  EXPECT_EQ(config["tie_word_embeddings"], true);
  EXPECT_EQ(config["quantization"]["bits"], 4);
  EXPECT_EQ(config["quantization"]["model.embed_tokens"]["bits"], 8);
  EXPECT_EQ(config["quantization"]["model.layers.0.self_attn.v_proj"], false);
  EXPECT_EQ(config["quantization"], config["quantization_config"]);
}

TEST(GgufConvert, SaysWhatWasNotExact) {
  const TemporaryDirectory d;
  GgufConvertOptions options;
  options.requantize = QuantSpec{4, 64};
  const auto report = convert_gguf(kTiny, d.path(), options);
  const TensorReport& down = report_of(report, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(down.source, "Q4_K");
  EXPECT_EQ(down.target, "affine 4-bit group 64 (f16)");
  EXPECT_FALSE(down.exact);
  EXPECT_GT(down.largest_error, 0.0);
  EXPECT_EQ(report_of(report, "model.layers.0.self_attn.v_proj").target, "affine 4-bit group 64 (f16)");
  EXPECT_TRUE(report_of(report, "model.layers.0.self_attn.q_proj").exact);
  auto checkpoint = Checkpoint::open(d.path());
  const double error = difference(*checkpoint);
  EXPECT_GE(error, down.largest_error);
  EXPECT_LE(error, 2 * kLargestWeight / 15);  // one step of 16 over the widest possible group
}

TEST(GgufConvert, DecodesKQuantsToTheStatedType) {
  const TemporaryDirectory d;
  const auto report = convert_gguf(kTiny, d.path(), {});
  EXPECT_EQ(report_of(report, "model.layers.0.mlp.down_proj.weight").target, "f16");
  EXPECT_FALSE(report_of(report, "model.layers.0.mlp.down_proj.weight").exact);
}

TEST(GgufConvert, WritesTheTokenizer) {
  const TemporaryDirectory d;
  convert_gguf(kTiny, d.path(), {});
  const Json tokenizer = parse_json(read_bytes(d.path() / "tokenizer.json"), "tokenizer.json");
  EXPECT_EQ(tokenizer["model"]["type"], "BPE");
  EXPECT_EQ(tokenizer["model"]["vocab"]["hello"], 262);
  EXPECT_EQ(tokenizer["model"]["vocab"]["<|im_end|>"], 2);
  EXPECT_EQ(tokenizer["model"]["merges"], Json({"h e", "l l", "he ll", "hell o"}));
  EXPECT_EQ(tokenizer["added_tokens"].size(), 3u);
  EXPECT_EQ(tokenizer["added_tokens"][1]["content"], "<|im_start|>");
  EXPECT_EQ(tokenizer["added_tokens"][1]["special"], true);
  EXPECT_EQ(tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"], "Digits");
  const Json config = parse_json(read_bytes(d.path() / "tokenizer_config.json"), "tokenizer_config.json");
  EXPECT_EQ(config["bos_token"], "<|im_start|>");
  EXPECT_EQ(config["eos_token"], "<|im_end|>");
  EXPECT_NE(config["chat_template"].get<std::string>().find("content"), std::string::npos);
  const Json generation = parse_json(read_bytes(d.path() / "generation_config.json"), "generation_config.json");
  EXPECT_EQ(generation["eos_token_id"], Json({2, 0}));
}

TEST(GgufConvert, TakesOffWhatGemmasNormsWereGiven) {
  const TemporaryDirectory d;
  const auto report = convert_gguf(BB_TEST_DATA "/gguf/gemma3.gguf", d.path() / "out", {});
  for (const TensorReport& tensor : report.tensors) EXPECT_TRUE(tensor.exact) << tensor.name;
  auto checkpoint = Checkpoint::open(d.path() / "out");
  EXPECT_EQ(difference(*checkpoint, BB_TEST_DATA "/gguf/gemma3.safetensors"), 0.0);
  const Json& config = checkpoint->config().json;
  EXPECT_EQ(config["model_type"], "gemma3_text");
  EXPECT_EQ(config["query_pre_attn_scalar"], 16);
  EXPECT_EQ(config["sliding_window"], 16);
  EXPECT_EQ(config["sliding_window_pattern"], 6);
  EXPECT_EQ(config["rope_theta"], 1e6);
  EXPECT_EQ(config["rope_local_base_freq"], 1e4);
  EXPECT_EQ(config["hidden_activation"], "gelu_pytorch_tanh");
  EXPECT_FALSE(config.contains("hidden_act"));
}

TEST(GgufConvert, FindsTheMergesOfPiecesByTheirScores) {
  const TemporaryDirectory d;
  convert_gguf(BB_TEST_DATA "/gguf/gemma3.gguf", d.path() / "out", {});
  const Json tokenizer = parse_json(read_text_file(d.path() / "out" / "tokenizer.json", 1 << 20), "tokenizer.json");
  const Json& model = tokenizer.at("model");
  // What users defined first, then by score; of one piece the longer left part first.
  EXPECT_EQ(model.at("merges"),
            Json::parse(R"([["\n", "\n"], ["▁", "▁"], ["t", "h"], ["h", "e"], ["▁", "th"], ["th", "e"], ["t", "he"],
                            ["▁th", "e"], ["▁", "the"]])"));
  EXPECT_EQ(model.at("byte_fallback"), true);
  EXPECT_EQ(model.at("unk_token"), "<unk>");
  EXPECT_EQ(model.at("vocab").at("▁▁"), 6);
  EXPECT_EQ(tokenizer.at("normalizer").at("content"), "▁");
  EXPECT_EQ(tokenizer.at("added_tokens").size(), 7u);
}

TEST(GgufConvert, NeverWritesOverAModel) {
  const TemporaryDirectory d;
  convert_gguf(kTiny, d.path(), {});
  expect_error([&] { convert_gguf(kTiny, d.path(), {}); }, "model.safetensors", "second conversion");
}

TEST(GgufConvert, RowsOfInterleavedHeads) {
  // Two heads of four rows: the file holds (0,0) (1,0) (0,1) (1,1) where the checkpoint has both firsts, then both
  // seconds.
  const uint64_t expected[] = {0, 2, 1, 3, 4, 6, 5, 7};
  for (uint64_t row = 0; row < 8; ++row) {
    EXPECT_EQ(source_row(row, 8, 2), expected[row]);
    EXPECT_EQ(source_row(row, 8, 0), row);
  }
  EXPECT_EQ(shortest_double(1e-5f), 1e-5);
  EXPECT_EQ(shortest_double(500000.0f), 500000.0);
}

}  // namespace
}  // namespace bumblebee
