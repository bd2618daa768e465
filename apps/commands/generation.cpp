// From flags to a serving, and from a result to text or JSON.
#include "commands/generation.h"

#include <fmt/core.h>

#include <chrono>
#include <cstdio>

#include "options/validators.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

Option* add_ctx_flag(Parser& verb, int& ctx_size) {
  return verb
      .add_option(
          "-c,--ctx-size", ctx_size,
          "Tokens of prompt and answer together (default 0: the model's context, or what --kv-memory holds of it)")
      ->option_text("N")
      ->check(integer_between(0, 1 << 30))
      ->group("Model");
}

Option* add_kv_memory_flag(Parser& verb, std::string& kv_memory) {
  return verb
      .add_option("--kv-memory", kv_memory,
                  "Memory for keys and values at most, such as 512M or 4G (default: half of what is free beside the "
                  "weights)")
      ->option_text("SIZE")
      ->check(byte_size())
      ->group("Model");
}

ReadyModel load_serving(const ServingFlags& flags, const CommonFlags& common) {
  Repository repository = source(flags.model.model, common);
  repository.directory();  // a download is no part of the time to load
  auto start = std::chrono::steady_clock::now();
  Tokenizer tokenizer = load_tokenizer(repository);
  GenerationConfig config = load_generation_config(repository, tokenizer);
  apply(flags.sampling, config);
  validate(config);
  text::GenerationOptions options;
  options.limits.sequence_length = flags.ctx_size;
  options.kv_bytes = bytes_of(flags.kv_memory);
  options.adapters = load_adapters(flags.adapters, common);
  LoadedModel loaded = load(flags.model, common);
  text::Generation serving = text::generation(loaded.model, tokenizer, config, options);
  const text::GenerationLimits limits = serving.limits();
  const bool shortened = flags.ctx_size == 0 && limits.sequence_length < loaded.model.info().context;
  if (common.verbose || shortened) {
    const std::string more = "; the model's context is " + std::to_string(loaded.model.info().context) +
                             ": --kv-memory or --kv-type int8 make more room";
    std::fprintf(stderr, "[room for %d tokens, %s of keys and values%s]\n", limits.sequence_length,
                 human_bytes(double(limits.kv_bytes)).c_str(), shortened ? more.c_str() : "");
  }
  double load_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return {std::move(loaded.model), std::move(tokenizer), std::move(config), std::move(serving), load_s};
}

double prefill_speed(const text::Result& result) {
  return result.timings.prefill_s > 0 ? result.token_summary.input / result.timings.prefill_s : 0;
}

double decode_speed(const text::Result& result) {
  return result.timings.decode_s > 0 && result.token_summary.output > 1
             ? (result.token_summary.output - 1) / result.timings.decode_s
             : 0;
}

namespace {

/// Null for the padding rows that many models have beyond their tokenizer's vocabulary.
OutJson piece(const Tokenizer& tokenizer, int32_t id) {
  try {
    return tokenizer.token_of(id);
  } catch (const Error&) {
    return nullptr;
  }
}

}  // namespace

OutJson to_json(const text::Result& result, const ReadyModel& ready) {
  OutJson out;
  out["text"] = result.text;
  out["tokens"] = result.tokens;
  out["prompt_tokens"] = result.token_summary.input;
  out["finish_reason"] = text::to_string(result.finish_reason);
  out["timings"] = {{"load_s", ready.load_s},
                    {"ttft_s", result.timings.ttft_s},
                    {"prefill_tokens_per_s", prefill_speed(result)},
                    {"decode_tokens_per_s", decode_speed(result)}};
  out["seed"] = ready.config.seed;
  if (!ready.config.logprobs) return out;
  OutJson list = OutJson::array();
  for (const text::TokenLogprob& one : result.logprobs) {
    OutJson top = OutJson::array();
    for (const auto& [token, logprob] : one.top) {
      top.push_back({{"token", token}, {"piece", piece(ready.tokenizer, token)}, {"logprob", logprob}});
    }
    list.push_back(
        {{"token", one.token}, {"piece", piece(ready.tokenizer, one.token)}, {"logprob", one.logprob}, {"top", top}});
  }
  out["logprobs"] = list;
  return out;
}

std::string cut_note(const text::Result& result, const ReadyModel& ready, const SamplingFlags& flags) {
  if (result.finish_reason != text::FinishReason::length) return "";
  const int limit = ready.serving.limits().sequence_length;
  if (result.token_summary.input + result.token_summary.output >= limit)
    return fmt::format("the answer is cut: the context of {} tokens is full; --ctx-size and --kv-memory make more room",
                       limit);
  if (flags.max_tokens) return "";
  return fmt::format("the answer is cut at {} tokens; -n sets another limit", result.token_summary.output);
}

std::string speed_line(const text::Result& result) {
  return fmt::format("[{} prompt tokens at {:.1f}/s, {} tokens at {:.1f}/s, first after {:.2f} s, {}]",
                     result.token_summary.input, prefill_speed(result), result.token_summary.output,
                     decode_speed(result), result.timings.ttft_s, text::to_string(result.finish_reason));
}

}  // namespace bumblebee::cli
