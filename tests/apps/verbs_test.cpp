// info, tokenize, detokenize, logits, perplexity, doctor: what they print, and that the numbers agree with each other.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "io/safetensors.h"
#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

struct Logits {
  uint64_t rows = 0, columns = 0;
  std::vector<double> values;  // [rows, columns]
};

template <class T>
std::vector<double> numbers(std::span<const std::byte> bytes) {
  std::vector<double> out(bytes.size() / sizeof(T));
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = double(value);
  }
  return out;
}

Logits load_logits(const std::filesystem::path& path) {
  std::shared_ptr<const SafetensorsFile> file = SafetensorsFile::open(path);
  const TensorEntry* tensor = file->find("logits");
  if (!tensor || tensor->shape.size() != 2) throw std::runtime_error(path.string() + " has no matrix of logits");
  Logits out{tensor->shape[0], tensor->shape[1], {}};
  out.values =
      tensor->dtype == DType::f64 ? numbers<double>(file->bytes(*tensor)) : numbers<float>(file->bytes(*tensor));
  return out;
}

TEST(Info, JsonDescribesADenseModel) {
  Outcome got = run({"info", tiny_model(), "--json", "-c", "100"});
  ASSERT_EQ(got.status, 0) << got.err;
  nlohmann::json json = got.json();
  EXPECT_EQ(json.at("architecture"), "llama");
  EXPECT_EQ(json.at("context"), 32768);
  EXPECT_EQ(json.at("bits"), 0);
  EXPECT_EQ(json.at("mode"), "dense");
  EXPECT_EQ(json.at("layers"), 2);
  EXPECT_EQ(json.at("vocab"), 288);
  EXPECT_EQ(json.at("tied_head"), true);
  // Embedding, per layer q and o [64, 64], k and v [32, 64], three of [96, 64], two norms; a last norm.
  int64_t parameters = 288 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64) + 64;
  EXPECT_EQ(json.at("parameters"), parameters);
  EXPECT_EQ(json.at("bytes"), 2 * parameters) << "f16";
  EXPECT_EQ(json.at("memory").at("context"), 100);
  // Keys and values, 2 layers, 2 heads of 16, bf16.
  EXPECT_EQ(json.at("memory").at("kv_type"), "bf16");
  EXPECT_EQ(json.at("memory").at("kv_bytes"), 100 * 2 * 2 * 2 * 16 * 2);
  EXPECT_EQ(json.at("memory").at("total_bytes"),
            json["memory"]["kv_bytes"].get<int64_t>() + json["memory"]["weights_bytes"].get<int64_t>());
  bool found = false;
  for (const nlohmann::json& module : json.at("modules")) {
    for (const char* key : {"name", "out", "in", "mode", "bits", "group_size", "dtype", "bytes"})
      EXPECT_TRUE(module.contains(key)) << key;
    found = found || module.at("name").get<std::string>().starts_with("model.layers.1.mlp.down_proj");
  }
  EXPECT_TRUE(found);
}

TEST(Info, TheKvTypeSetsTheMemory) {
  auto kv = [](const char* flag, const char* type) {
    return run({"info", tiny_model(), "--json", flag, type}).json()["memory"]["kv_bytes"].get<int64_t>();
  };
  EXPECT_EQ(kv("--kv-type", "f32"), 2 * kv("--kv-type", "bf16"));
  EXPECT_EQ(kv("--kv-type", "f16"), kv("--kv-type", "bf16"));
  EXPECT_EQ(kv("--kv-type", "bf16") * (16 + 4), kv("--kv-type", "int8") * 32) << "heads of 16, and a scale for each";
  EXPECT_EQ(kv("--kv-bits", "8"), kv("--kv-type", "int8"));
  EXPECT_EQ(kv("--kv-bits", "16"), kv("--kv-type", "auto"));
  EXPECT_EQ(kv("--kv-bits", "32"), kv("--kv-type", "f32"));
  EXPECT_EQ(run({"info", tiny_model(), "--kv-bits", "4"}).status, 2);
  EXPECT_EQ(run({"info", tiny_model(), "--kv-bits", "8", "--kv-type", "int8"}).status, 2);
}

TEST(Info, TakesTheModelEitherWayAndShowIsAnAlias) {
  Outcome positional = run({"info", tiny_model()});
  ASSERT_EQ(positional.status, 0) << positional.err;
  // What is free changes from moment to moment.
  const auto facts = [](const Outcome& outcome) { return outcome.out.substr(0, outcome.out.find("budget")); };
  EXPECT_EQ(facts(run({"show", "-m", tiny_model()})), facts(positional));
  EXPECT_NE(positional.out.find("--kv-memory"), std::string::npos) << positional.out;
  EXPECT_NE(positional.out.find("llama"), std::string::npos);
}

TEST(Info, NeedsNoTokenizer) {
  for (const char* name : {"qwen3", "qwen2", "llama", "mistral"}) {
    Outcome got = run({"info", golden_model(name), "--json"});
    EXPECT_EQ(got.status, 0) << name << ": " << got.err;
    EXPECT_EQ(got.json().at("architecture"), name);
  }
}

TEST(Tokenize, RoundTrip) {
  Outcome ids = run({"tokenize", "-m", tiny_model(), "--json", "Hi, \xC3\xA9!"});
  ASSERT_EQ(ids.status, 0) << ids.err;
  EXPECT_EQ(ids.json(), nlohmann::json({72, 105, 44, 32, 0xC3, 0xA9, 33})) << "one token per byte";
  EXPECT_EQ(run({"tokenize", "-m", tiny_model(), "Hi"}).out, "72 105\n");
  EXPECT_EQ(run({"detokenize", "-m", tiny_model(), ids.out}).out, "Hi, \xC3\xA9!\n");
  EXPECT_EQ(run({"detokenize", "-m", tiny_model(), "72 105", "--json"}).json().at("text"), "Hi");
}

TEST(Tokenize, SourcesAndShapes) {
  Scratch scratch;
  write_file(scratch / "text", "ab\n\nc");
  EXPECT_EQ(run({"tokenize", "-m", tiny_model(), "-f", (scratch / "text").string(), "--json"}).json(),
            nlohmann::json({97, 98, 10, 10, 99}));
  EXPECT_EQ(run({"tokenize", "-m", tiny_model(), "-f", (scratch / "text").string(), "--lines", "--json"}).out,
            "[97,98]\n[]\n[99]\n");
  EXPECT_EQ(run(Call{{"tokenize", "-m", tiny_model(), "-"}, {}, "ab", 0, {}}).out, "97 98\n");
  nlohmann::json pieces = run({"tokenize", "-m", tiny_model(), "--pieces", "--json", "a"}).json();
  EXPECT_EQ(pieces, nlohmann::json::parse(R"([{"id": 97, "piece": "a"}])"));
  EXPECT_EQ(run({"tokenize", "-m", tiny_model(), "<|im_end|>"}).out.substr(0, 3), "60 ");
  EXPECT_EQ(run({"tokenize", "-m", tiny_model(), "--parse-control-tokens", "<|im_end|>"}).out, "258\n");
  EXPECT_EQ(run({"detokenize", "-m", tiny_model(), "97,258"}).out, "a<|im_end|>\n");
  EXPECT_EQ(run({"detokenize", "-m", tiny_model(), "97,258", "--skip-special-tokens"}).out, "a\n");
}

TEST(Logits, MatchTheGoldensOfEveryArchitecture) {
  Scratch scratch;
  for (const char* name : {"qwen3", "qwen2", "llama", "mistral"}) {
    SCOPED_TRACE(name);
    std::shared_ptr<const SafetensorsFile> golden = SafetensorsFile::open(golden_model(name) + "/golden.safetensors");
    const TensorEntry* tokens = golden->find("tokens");
    ASSERT_NE(tokens, nullptr);
    std::string list;
    for (double id : numbers<int32_t>(golden->bytes(*tokens)))
      list += (list.empty() ? "" : ",") + std::to_string(int(id));
    Outcome got = run({"logits", "-m", golden_model(name), "--precision", "exact", "--tokens", list, "-o",
                       (scratch / "out").string(), "--json"});
    ASSERT_EQ(got.status, 0) << got.err;
    EXPECT_EQ(SafetensorsFile::open(scratch / "out")->find("logits")->dtype, DType::f32);
    Logits ours = load_logits(scratch / "out");
    Logits theirs = load_logits(golden_model(name) + "/golden.safetensors");
    ASSERT_EQ(ours.rows, theirs.rows);
    ASSERT_EQ(ours.columns, theirs.columns);
    ASSERT_EQ(ours.values.size(), theirs.values.size());
    double largest = 0, difference = 0;
    for (size_t i = 0; i < ours.values.size(); ++i) {
      largest = std::max(largest, std::abs(theirs.values[i]));
      difference = std::max(difference, std::abs(ours.values[i] - theirs.values[i]));
    }
    EXPECT_LT(difference, 1e-4 * largest) << "the program writes other numbers than the library computes";
  }
}

TEST(Logits, TokensFromAFileAndAThreadCountChangeNothing) {
  Scratch scratch;
  write_file(scratch / "ids", "[1, 2,\n 3]\n");
  ASSERT_EQ(run({"logits", "-m", tiny_model(), "--tokens", "1,2,3", "-o", (scratch / "a").string()}).status, 0);
  ASSERT_EQ(run({"logits", "-m", tiny_model(), "--tokens-file", (scratch / "ids").string(), "-t", "1", "-o",
                 (scratch / "b").string()})
                .status,
            0);
  EXPECT_EQ(read_file(scratch / "a"), read_file(scratch / "b"));
}

TEST(Perplexity, FollowsItsDefinition) {
  Scratch scratch;
  std::string text = "The quick brown fox jumps over the lazy dog.";  // 44 bytes, so 44 tokens
  write_file(scratch / "text", text);
  Outcome got = run({"perplexity", "-m", tiny_model(), "-f", (scratch / "text").string(), "-c", "16", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  nlohmann::json json = got.json();
  EXPECT_EQ(json.at("tokens"), 44);
  EXPECT_EQ(json.at("windows"), 3) << "16 + 16 + 12";
  EXPECT_EQ(json.at("tokens_scored"), 15 + 15 + 11);

  double sum = 0;
  for (size_t first = 0; first < text.size(); first += 16) {
    std::string list;
    std::string window = text.substr(first, 16);
    for (char c : window) list += (list.empty() ? "" : ",") + std::to_string(int(c));
    ASSERT_EQ(run({"logits", "-m", tiny_model(), "--tokens", list, "-o", (scratch / "l").string()}).status, 0);
    Logits logits = load_logits(scratch / "l");
    for (size_t i = 0; i + 1 < window.size(); ++i) {
      std::span<const double> row = std::span<const double>(logits.values).subspan(i * logits.columns, logits.columns);
      double total = 0;
      for (double value : row) total += std::exp(value);
      sum += std::log(total) - row[size_t(window[i + 1])];
    }
  }
  EXPECT_NEAR(json.at("nll").get<double>(), sum / 41, 1e-9);
  EXPECT_NEAR(json.at("perplexity").get<double>(), std::exp(sum / 41), 1e-6);
}

TEST(Perplexity, AWindowOfOneTokenLeftOverIsNotScored) {
  Scratch scratch;
  write_file(scratch / "text", std::string(17, 'a'));
  nlohmann::json json =
      run({"perplexity", "-m", tiny_model(), "-f", (scratch / "text").string(), "-c", "8", "--json"}).json();
  EXPECT_EQ(json.at("windows"), 2);
  EXPECT_EQ(json.at("tokens_scored"), 14);
}

/// The tiny model with a NaN in its last norm, so that every logit is one.
void write_broken_model(const std::filesystem::path& to) {
  copy_tiny_model(to);
  std::string file = read_file(to / "model.safetensors");
  const size_t entry = file.find("\"model.norm.weight\""), offsets = file.find('[', file.find("data_offsets", entry));
  ASSERT_NE(entry, file.npos);
  uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof header);
  const size_t at = 8 + header + std::stoull(file.substr(offsets + 1));
  std::memset(file.data() + at, 0xFF, 2);  // an f16 that is a NaN
  write_file(to / "model.safetensors", file);
}

TEST(Logits, ThatAreNoNumbersAreWrittenAndSaid) {
  Scratch scratch;
  write_broken_model(scratch / "broken");
  const auto logits = [&](const std::string& model) {
    const Outcome got = run({"logits", "-m", model, "--tokens", "1,2,3", "-o", (scratch / "out").string(), "--json"});
    EXPECT_EQ(got.status, 0) << got.err;
    return got;
  };
  const Outcome got = logits((scratch / "broken").string());
  EXPECT_EQ(got.json().at("rows_not_finite"), 3);
  EXPECT_NE(got.err.find("not finite numbers: in 3 of 3 rows, row 0 is the first"), std::string::npos) << got.err;
  EXPECT_EQ(logits(tiny_model()).json().at("rows_not_finite"), 0);
}

TEST(Perplexity, OfALogitThatIsNotANumberIsRefused) {
  Scratch scratch;
  write_broken_model(scratch / "broken");
  write_file(scratch / "text", "The quick brown fox");
  const Outcome got =
      run({"perplexity", "-m", (scratch / "broken").string(), "-f", (scratch / "text").string(), "-c", "16"});
  EXPECT_EQ(got.status, 7) << got.out;
  EXPECT_NE(got.err.find("[perplexity] expected finite logits"), std::string::npos) << got.err;
}

TEST(Doctor, TellsWhatThereIs) {
  Outcome got = run({"doctor", "--json", "--no-bandwidth"});
  ASSERT_EQ(got.status, 0) << got.err;
  nlohmann::json json = got.json();
  EXPECT_FALSE(json.at("version").get<std::string>().empty());
  EXPECT_FALSE(json.at("cpu_features").empty());
  EXPECT_TRUE(json.at("memory_bandwidth_bytes_per_s").is_null());
  std::vector<std::string> names;
  for (const nlohmann::json& device : json.at("devices")) {
    names.push_back(device.at("name"));
    EXPECT_GT(device.at("threads").get<int>(), 0);
    EXPECT_GT(device.at("memory_bytes").get<uint64_t>(), uint64_t{1} << 26);
    EXPECT_TRUE(device.at("kernels_available").is_array());
  }
  EXPECT_EQ(names, (std::vector<std::string>{"cpu", "ref"}));
  const nlohmann::json& threading = json.at("threading");
  EXPECT_EQ(threading.at("threads"), json.at("devices")[0].at("threads"));
  EXPECT_GE(threading.at("cpus").get<int>(), threading.at("cores").get<int>());
  EXPECT_TRUE(threading.at("cpu_quota").is_null() || threading["cpu_quota"].get<double>() > 0);
  int threads = 0;
  for (const nlohmann::json& node : threading.at("nodes")) {
    EXPECT_FALSE(node.at("cpus").empty());
    threads += node.at("threads").get<int>();
  }
  EXPECT_EQ(threads, threading.at("threads").get<int>());
  EXPECT_FALSE(threading.at("pinning").get<std::string>().empty());
  EXPECT_FALSE(threading.at("placement").get<std::string>().empty());
  EXPECT_EQ(
      run({"doctor", "--json", "--no-bandwidth", "-t", "3", "--pin", "none"}).json().at("threading").at("threads"), 3);
  Outcome text = run({"doctor"});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_NE(text.out.find("memory bandwidth"), std::string::npos) << text.out;
}

}  // namespace
}  // namespace bumblebee::apps_test
