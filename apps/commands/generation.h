// What `generate` and `chat` share: building the serving from flags, and printing a result.
#pragma once

#include <string>
#include <vector>

#include "bumblebee/bumblebee.h"
#include "options/adapter_flags.h"
#include "options/model_flags.h"
#include "options/sampling_flags.h"
#include "ui/json_out.h"

namespace bumblebee::cli {

struct ReadyModel {
  Model model;
  Tokenizer tokenizer;
  GenerationConfig config;      // with the flags
  GenerationConfig own_config;  // the model's own, without them
  text::Generation serving;
  double load_s = 0;
};

struct ServingFlags {
  const ModelFlags& model;
  const SamplingFlags& sampling;
  const AdapterFlags& adapters;
  int ctx_size = 0;
  std::string kv_memory;
  Uncapped uncapped = Uncapped::no;
  int batch_size = 1;  // answers made at once
};

Option* add_ctx_flag(Parser& verb, int& ctx_size);
Option* add_kv_memory_flag(Parser& verb, std::string& kv_memory);

/// Reads small files first, so that a missing tokenizer is reported before gigabytes of weights are loaded.
ReadyModel load_serving(const ServingFlags& flags, const CommonFlags& common);

double prefill_speed(const text::Result& result);  // tokens per second; 0 when nothing was measured
double decode_speed(const text::Result& result);   // the same; the first token counts as prefill

/// Prints answers as they are made, one after the other with a line `---` between them. A prompt that takes more than a
/// second shows how far it is.
std::vector<text::Result> stream_answers(const text::Generation& serving, std::vector<text::Input> inputs,
                                         const CommonFlags& common);

/// What ended an answer that did not end by itself.
enum class Cut : unsigned char { nothing, tokens, characters, context, stopped };
Cut cut_by(const text::Result& result, const GenerationConfig& config, int sequence_length);

/// The object that --json prints.
OutJson to_json(const text::Result& result, const ReadyModel& ready);

/// Why an answer ends in the middle, and which flag lengthens it. Empty for answers that ended, and where -n asked for
/// just so many tokens.
std::string cut_note(const text::Result& result, const ReadyModel& ready, const SamplingFlags& flags);

/// "[35 prompt tokens at 210/s, 64 tokens at 41.3/s, first after 0.17 s, stop]"
std::string speed_line(const text::Result& result);

}  // namespace bumblebee::cli
