// One reader of configs per family.
#pragma once

#include "models/config_reader.h"

namespace bumblebee::models {

DecoderSpec read_gpt_oss(const Json& config, std::string_view where);
DecoderSpec read_granite(const Json& config, std::string_view where);
DecoderSpec read_granitemoehybrid(const Json& config, std::string_view where);
DecoderSpec read_llama(const Json& config, std::string_view where);
DecoderSpec read_ministral3(const Json& config, std::string_view where);
DecoderSpec read_mistral(const Json& config, std::string_view where);
DecoderSpec read_mixtral(const Json& config, std::string_view where);
DecoderSpec read_phi3(const Json& config, std::string_view where);
DecoderSpec read_qwen2(const Json& config, std::string_view where);
DecoderSpec read_qwen2_moe(const Json& config, std::string_view where);
DecoderSpec read_qwen3(const Json& config, std::string_view where);
DecoderSpec read_qwen3_5(const Json& config, std::string_view where);
DecoderSpec read_qwen3_5_moe(const Json& config, std::string_view where);
DecoderSpec read_qwen3_moe(const Json& config, std::string_view where);
DecoderSpec read_qwen3_next(const Json& config, std::string_view where);
DecoderSpec read_smollm3(const Json& config, std::string_view where);

}  // namespace bumblebee::models
