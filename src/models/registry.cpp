// The table of families.
#include "models/registry.h"

#include <array>
#include <utility>

#include "base/error.h"
#include "models/families.h"

namespace bumblebee::models {
namespace {

struct Family {
  const char* model_type;
  DecoderSpec (*read)(const Json& config, std::string_view where);
};

constexpr std::array<Family, 9> kFamilies = {{{"gpt_oss", read_gpt_oss},
                                              {"llama", read_llama},
                                              {"mistral", read_mistral},
                                              {"mixtral", read_mixtral},
                                              {"qwen2", read_qwen2},
                                              {"qwen2_moe", read_qwen2_moe},
                                              {"qwen3", read_qwen3},
                                              {"qwen3_moe", read_qwen3_moe},
                                              {"smollm3", read_smollm3}}};

/// The text halves of models that see: positions of images apart (mrope) they are these, and text has only one kind.
constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kTextHalves = {
    {{"qwen2_vl", "qwen2"},
     {"qwen2_vl_text", "qwen2"},
     {"qwen2_5_vl", "qwen2"},
     {"qwen2_5_vl_text", "qwen2"},
     {"qwen3_vl", "qwen3"},
     {"qwen3_vl_text", "qwen3"},
     {"qwen3_vl_moe", "qwen3_moe"},
     {"qwen3_vl_moe_text", "qwen3_moe"}}};

}  // namespace

std::vector<std::string> families() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.model_type);
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
  std::string known;
  for (const Family& family : kFamilies) known += (known.empty() ? "" : ", ") + std::string(family.model_type);
  throw Error(ErrorCode::unsupported, where,
              cat("'model_type': expected one of ", known, ", got '", type.substr(0, 60), "'"));
}

std::unique_ptr<nn::Model> make_model(const ModelSpec& spec, nn::Loader& load) {
  DecoderSpec decoder = spec.decoder;
  if (!decoder.tied_known) decoder.dims.tied_head = !load.has("lm_head.weight");
  auto model = std::make_unique<Decoder>(decoder, load);
  load.finish();
  return model;
}

}  // namespace bumblebee::models
