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
  const GenerationConfig own = load_generation_config(repository, tokenizer);
  GenerationConfig config = own;
  apply(flags.sampling, config, flags.uncapped);
  validate(config);
  text::GenerationOptions options;
  options.limits = {.batch_size = flags.batch_size, .sequence_length = flags.ctx_size};
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
  return {std::move(loaded.model), std::move(tokenizer), std::move(config), own, std::move(serving), load_s};
}

double prefill_speed(const text::Result& result) {
  const int computed = result.token_summary.input - result.token_summary.cached;
  return result.timings.prefill_s > 0 ? computed / result.timings.prefill_s : 0;
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

std::vector<text::Result> stream_answers(const text::Generation& serving, std::vector<text::Input> inputs,
                                         const CommonFlags& common) {
  using namespace std::chrono_literals;
  ProgressBar bar("reading", ProgressBar::Unit::items, common.progress());
  const auto start = std::chrono::steady_clock::now();
  const auto progress = [&bar, start](int done, int total) {
    if (done == total) return bar.clear();
    if (std::chrono::steady_clock::now() - start > 1s) bar.update(uint64_t(done), uint64_t(total));
  };
  for (text::Input& input : inputs) input.prompt_progress = progress;
  size_t current = 0;
  const auto go_to = [&current](size_t input) {
    for (; current < input; ++current) write_out("\n---\n");
  };
  std::vector<text::Result> results = serving.stream(inputs, [&](size_t input, std::string_view piece) {
    bar.clear();
    go_to(input);
    write_out(piece);
    return true;
  });
  bar.clear();
  go_to(inputs.size() - 1);
  write_out("\n");
  return results;
}

Cut cut_by(const text::Result& result, const GenerationConfig& config, int sequence_length) {
  if (result.finish_reason == text::FinishReason::cancelled) return Cut::stopped;
  if (result.finish_reason != text::FinishReason::length) return Cut::nothing;
  const text::TokenSummary& tokens = result.token_summary;
  if (tokens.input + tokens.output >= sequence_length) return Cut::context;
  const bool full = config.max_length ? tokens.input + tokens.output >= *config.max_length
                                      : tokens.output >= config.max_new_tokens.value_or(kNoLimit);
  return full ? Cut::tokens : Cut::characters;
}

OutJson to_json(const text::Result& result, const ReadyModel& ready) {
  OutJson out;
  out["text"] = result.text;
  out["tokens"] = result.tokens;
  out["prompt_tokens"] = result.token_summary.input;
  out["prompt_tokens_cached"] = result.token_summary.cached;
  out["finish_reason"] = text::to_string(result.finish_reason);
  out["timings"] = {{"load_s", ready.load_s},
                    {"ttft_s", result.timings.ttft_s},
                    {"prefill_tokens_per_s", prefill_speed(result)},
                    {"decode_tokens_per_s", decode_speed(result)}};
  out["seed"] = result.seed;
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
  const int limit = ready.serving.limits().sequence_length;
  const Cut cut = cut_by(result, ready.config, limit);
  if (cut == Cut::context)
    return fmt::format("the answer is cut: the context of {} tokens is full; --ctx-size and --kv-memory make more room",
                       limit);
  if (cut != Cut::tokens || flags.max_tokens) return "";
  return fmt::format("the answer is cut at {} tokens; -n sets another limit, -n -1 none", result.token_summary.output);
}

std::string speed_line(const text::Result& result) {
  const text::TokenSummary& tokens = result.token_summary;
  const std::string whole = tokens.cached > 0 ? fmt::format(" of {}", tokens.input) : "";
  return fmt::format("[{}{} prompt tokens at {:.1f}/s, {} tokens at {:.1f}/s, first after {:.2f} s, {}]",
                     tokens.input - tokens.cached, whole, prefill_speed(result), tokens.output, decode_speed(result),
                     result.timings.ttft_s, text::to_string(result.finish_reason));
}

}  // namespace bumblebee::cli
