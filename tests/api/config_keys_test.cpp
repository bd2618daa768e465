// Every key of a model's files against the table of what becomes of it (tools/audit_config_keys.py finds them): what is
// read makes a difference, what is harmless makes none, what is refused is named.
#include <gtest/gtest.h>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "bumblebee/generation_config.h"
#include "io/hf_config.h"
#include "models/registry.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

struct Row {
  std::string file, key, verdict;
  Json value;
};

std::vector<Row> table() {
  std::vector<Row> rows;
  std::istringstream text(read_text_file(BB_TEST_DATA "/config_keys.tsv", 1 << 20));
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream fields(line);
    Row row;
    std::string value;
    std::getline(fields, row.file, '\t');
    std::getline(fields, row.key, '\t');
    std::getline(fields, row.verdict, '\t');
    std::getline(fields, value, '\t');
    row.value = parse_json(value, line);
    rows.push_back(std::move(row));
  }
  return rows;
}

const fs::path kTiny = BB_TEST_DATA "/apps/tiny";

Json tiny(const std::string& name) { return parse_json(read_text_file(kTiny / name, 1 << 20), name); }

std::string words(const GenerationConfig& g) {
  Json biases;
  for (const auto& [id, bias] : g.logit_bias) biases.push_back({id, bias});
  Json strategy = "greedy";
  if (const auto* s = std::get_if<MultinomialSampling>(&g.strategy)) strategy = {s->top_k, s->top_p, s->min_p};
  if (const auto* s = std::get_if<ContrastiveSearch>(&g.strategy)) strategy = {s->top_k, s->alpha};
  return Json{g.max_new_tokens.value_or(-1),
              g.max_length.value_or(-1),
              g.min_new_tokens.value_or(-1),
              g.min_length.value_or(-1),
              strategy,
              g.temperature,
              g.repetition_penalty,
              g.no_repeat_ngram_length,
              biases,
              g.suppressed_token_ids,
              g.eos_token_ids,
              g.bos_token_id.value_or(-1),
              g.pad_token_id.value_or(-1),
              g.stop_strings}
      .dump();
}

/// Families whose keys are largely their own; what they make of them, the tests of models say.
bool reads_its_own(const std::string& family) {
  static const std::set<std::string> kFamilies = {
      "deepseek_v2",      "deepseek_v3", "gemma2",   "gemma3",     "gemma4", "glm4", "glm4_moe_lite",
      "granitemoehybrid", "lfm2",        "lfm2_moe", "ministral3", "olmo2",  "olmo3"};
  return kFamilies.contains(family);
}

class ConfigKeys : public ::testing::Test {
 protected:
  ConfigKeys() : directory_(fs::path(::testing::TempDir()) / ("bb_keys_" + std::to_string(::getpid()))) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~ConfigKeys() override { fs::remove_all(directory_); }

  void put(const std::string& name, const Json& json) const { std::ofstream(directory_ / name) << json.dump(); }

  /// All that config.json has a say in.
  std::string of_model(const Json& config) const {
    const HfConfig file = HfConfig::parse(config.dump(), "config.json");
    const models::ModelSpec spec = models::read_spec(file.text(), "config.json");
    const models::DecoderSpec& d = spec.decoder;
    Json delta;
    if (d.delta) {
      const models::DeltaSpec& s = *d.delta;
      delta = {s.key_heads, s.value_heads, s.key_dim, s.value_dim, s.kernel, d.dims.is_recurrent(1)};
    }
    fs::remove(directory_ / "generation_config.json");
    put("config.json", config);
    return Json{spec.family,
                d.dims.layers,
                d.dims.d_model,
                d.dims.heads,
                d.dims.kv_heads,
                d.dims.head_dim,
                d.dims.d_ff,
                d.dims.vocab,
                d.dims.context,
                d.dims.tied_head,
                d.tied_known,
                d.eps,
                d.qkv_bias,
                d.o_bias,
                d.mlp_bias,
                d.qk_norm,
                d.windows,
                d.moe.layers,
                d.moe.router.experts,
                d.moe.router.top_k,
                d.moe.router.normalise,
                d.moe.d_ff,
                d.moe.shared_d_ff,
                delta,
                d.rope.inv_freq,
                d.rope.attention_factor,
                file.quantization.present(),
                file.quantization.top_level().bits,
                words(load_generation_config(local(directory_)))}
        .dump();
  }

  std::string of_generation(const Json& generation) const {
    put("config.json", tiny("config.json"));
    put("generation_config.json", generation);
    return words(load_generation_config(local(directory_)));
  }

  static std::string of_text(const Json& file, const Json& sidecar) {
    const txt::Tokenizer tokenizer =
        txt::Tokenizer::from_bytes(file.dump(), txt::TokenizerConfig::from_json(sidecar.dump()));
    const std::string text = "Ab  \xC3\x89 ab<|im_end|> <new>";
    const auto ids = tokenizer.encode(text), parsed = tokenizer.encode(text, {.control = txt::ControlTokens::parse});
    Json added, names;
    for (const auto& token : tokenizer.added_tokens()) added.push_back({token.id, token.text, token.special});
    for (const auto& [name, value] : tokenizer.config().named_tokens) names.push_back({name, value});
    const auto prompt = txt::ChatTemplate::from_tokenizer(tokenizer).render(R"([{"role": "user", "content": "ab"}])");
    return Json{ids, parsed, tokenizer.decode(parsed), tokenizer.eos_id().value_or(-1), added, names, prompt.text}
        .dump();
  }

  /// What a file says with one key changed: for each of the files that the key may matter in.
  std::vector<std::string> outcomes(const Row& row, bool changed) const {
    std::vector<std::string> all;
    const auto with = [&](Json json) {
      if (changed) json[row.key] = row.value;
      return json;
    };
    const auto add = [&](auto&& make) {
      try {
        all.push_back(make());
      } catch (const Error& error) {
        const bool named = std::string(error.what()).find(row.key) != std::string::npos;
        all.push_back(error.code() == ErrorCode::unsupported && named ? "refused" : cat("error ", error.what()));
      }
    };
    if (row.file == "config.json") {
      for (const std::string& family : models::families()) {
        if (reads_its_own(family)) continue;
        Json config = tiny("config.json");
        config.update({{"model_type", family}, {"max_window_layers", 1}});
        config["use_sliding_window"] = family != "qwen2_moe";  // which refuses it without layer_types
        if (row.key == "rope_parameters" || row.key == "rope_scaling") config.erase("rope_theta");
        add([&] { return of_model(with(config)); });
      }
    } else if (row.file == "generation_config.json") {
      add([&] { return of_generation(with({{"do_sample", true}, {"top_k", 5}})); });
      add([&] { return of_generation(with({{"top_k", 5}})); });
    } else if (row.file == "tokenizer_config.json") {
      add([&] { return of_text(tiny("tokenizer.json"), with(tiny(row.file))); });
    } else {
      add([&] { return of_text(with(tiny(row.file)), tiny("tokenizer_config.json")); });
    }
    return all;
  }

  fs::path directory_;
};

TEST_F(ConfigKeys, BecomeWhatTheTableSays) {
  const std::vector<Row> rows = table();
  EXPECT_GT(rows.size(), 250u);
  for (const Row& row : rows) {
    SCOPED_TRACE(row.file + " " + row.key + " " + row.value.dump());
    const std::vector<std::string> before = outcomes(row, false), after = outcomes(row, true);
    for (const std::string& one : before) ASSERT_FALSE(one.starts_with("error") || one == "refused") << one;
    bool differs = false, refused = false;
    for (size_t i = 0; i < after.size(); ++i) {
      refused = refused || after[i] == "refused";
      differs = differs || (after[i] != before[i] && after[i] != "refused");
    }
    if (row.verdict == "refused") {
      EXPECT_TRUE(refused && !differs) << after[0];
    } else if (row.verdict == "harmless") {
      EXPECT_FALSE(refused || differs) << "before: " << before[0] << "\nafter:  " << after[0];
    } else {
      EXPECT_EQ(row.verdict, "read");
      EXPECT_TRUE(differs || refused);
    }
  }
}

}  // namespace
}  // namespace bumblebee
