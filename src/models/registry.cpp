// The table of families.
#include "models/registry.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "models/families.h"
#include "models/gemma.h"
#include "models/gemma4.h"
#include "models/glm4.h"
#include "models/hybrid.h"
#include "models/latent.h"
#include "models/lfm2.h"
#include "models/olmo.h"

namespace bumblebee::models {
namespace {

struct Family {
  const char* model_type;
  DecoderSpec (*read)(const Json& config, std::string_view where);
};

constexpr std::array<Family, 17> kFamilies = {{{"gpt_oss", read_gpt_oss},
                                               {"granite", read_granite},
                                               {"granitemoehybrid", read_granitemoehybrid},
                                               {"llama", read_llama},
                                               {"ministral3", read_ministral3},
                                               {"mistral", read_mistral},
                                               {"mixtral", read_mixtral},
                                               {"phi3", read_phi3},
                                               {"qwen2", read_qwen2},
                                               {"qwen2_moe", read_qwen2_moe},
                                               {"qwen3", read_qwen3},
                                               {"qwen3_5", read_qwen3_5},
                                               {"qwen3_5_moe", read_qwen3_5_moe},
                                               {"qwen3_moe", read_qwen3_moe},
                                               {"qwen3_next", read_qwen3_next},
                                               {"seed_oss", read_seed_oss},
                                               {"smollm3", read_smollm3}}};

/// Families with a model of their own.
struct OtherFamily {
  const char* model_type;
  std::function<std::unique_ptr<nn::Model>(nn::Loader&)> (*read)(const Json& config, std::string_view where);
};

template <class Model, auto READ>
std::function<std::unique_ptr<nn::Model>(nn::Loader&)> maker(const Json& config, std::string_view where) {
  return [spec = READ(config, where)](nn::Loader& load) { return std::make_unique<Model>(spec, load); };
}

constexpr std::array<OtherFamily, 11> kOthers = {{{"deepseek_v2", maker<Latent, read_deepseek_v2>},
                                                  {"deepseek_v3", maker<Latent, read_deepseek_v3>},
                                                  {"gemma2", maker<Gemma, read_gemma2>},
                                                  {"gemma3", maker<Gemma, read_gemma3>},
                                                  {"gemma4", maker<Gemma4, read_gemma4>},
                                                  {"glm4", maker<Glm4, read_glm4>},
                                                  {"glm4_moe_lite", maker<Latent, read_glm4_moe_lite>},
                                                  {"lfm2", maker<Lfm2, read_lfm2>},
                                                  {"lfm2_moe", maker<Lfm2, read_lfm2_moe>},
                                                  {"olmo2", maker<Olmo, read_olmo2>},
                                                  {"olmo3", maker<Olmo, read_olmo3>}}};

/// Other names of families, and the text halves of models that see: positions of images apart (mrope) they are these,
/// and text has only one kind.
constexpr std::array<std::pair<std::string_view, std::string_view>, 16> kTextHalves = {
    {{"gemma3_text", "gemma3"},
     {"gemma4_text", "gemma4"},
     {"gemma4_unified", "gemma4"},
     {"gemma4_unified_text", "gemma4"},
     {"joyai_llm_flash", "deepseek_v3"},
     {"kimi_k2", "deepseek_v3"},
     {"qwen2_vl", "qwen2"},
     {"qwen2_vl_text", "qwen2"},
     {"qwen2_5_vl", "qwen2"},
     {"qwen2_5_vl_text", "qwen2"},
     {"qwen3_5_text", "qwen3_5"},
     {"qwen3_5_moe_text", "qwen3_5_moe"},
     {"qwen3_vl", "qwen3"},
     {"qwen3_vl_text", "qwen3"},
     {"qwen3_vl_moe", "qwen3_moe"},
     {"qwen3_vl_moe_text", "qwen3_moe"}}};

}  // namespace

std::vector<std::string> families() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.model_type);
  for (const OtherFamily& family : kOthers) names.emplace_back(family.model_type);
  std::sort(names.begin(), names.end());
  return names;
}

ModelSpec read_spec(const Json& config, std::string_view where) {
  if (!is_object(config)) throw Error(ErrorCode::bad_config, where, cat("expected a JSON object, got ", brief(config)));
  std::string type = string_or(config, "model_type", where, "");
  for (const auto& [half, family] : kTextHalves) {
    if (type == half) type = family;
  }
  for (const Family& family : kFamilies) {
    if (type == family.model_type) return {type, family.read(config, where)};
  }
  for (const OtherFamily& family : kOthers) {
    if (type == family.model_type) return {type, {}, family.read(config, where)};
  }
  std::string known;
  for (const std::string& family : families()) known += (known.empty() ? "" : ", ") + family;
  throw Error(ErrorCode::unsupported, where,
              cat("'model_type': expected one of ", known, ", got '", type.substr(0, 60), "'"));
}

std::unique_ptr<nn::Model> make_model(const ModelSpec& spec, nn::Loader& load) {
  if (spec.make) {
    auto model = spec.make(load);
    load.finish();
    return model;
  }
  DecoderSpec decoder = spec.decoder;
  if (!decoder.tied_known) decoder.dims.tied_head = !load.has("lm_head.weight");
  std::unique_ptr<nn::Model> model;
  if (decoder.delta) {
    model = std::make_unique<Hybrid>(decoder, load);
  } else {
    model = std::make_unique<Decoder>(decoder, load);
  }
  load.finish();
  return model;
}

}  // namespace bumblebee::models
