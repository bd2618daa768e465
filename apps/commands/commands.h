// One function per verb: each registers its flags and what runs. Implementations are one file per verb beside this one.
#pragma once

#include <CLI/CLI.hpp>

#include "options/common.h"

namespace bumblebee::cli {

void add_generate(CLI::App& app, Session& session);
void add_chat(CLI::App& app, Session& session);
void add_info(CLI::App& app, Session& session);
void add_tokenize(CLI::App& app, Session& session);
void add_detokenize(CLI::App& app, Session& session);
void add_logits(CLI::App& app, Session& session);
void add_perplexity(CLI::App& app, Session& session);
void add_bench(CLI::App& app, Session& session);
void add_convert(CLI::App& app, Session& session);
void add_quantize(CLI::App& app, Session& session);
void add_adapter(CLI::App& app, Session& session);
void add_fuse(CLI::App& app, Session& session);
void add_prepare(CLI::App& app, Session& session);
void add_train(CLI::App& app, Session& session);
/// The two above; nothing in a build without training.
void add_training_verbs(CLI::App& app, Session& session);
void add_pull(CLI::App& app, Session& session);
void add_cache(CLI::App& app, Session& session);
void add_doctor(CLI::App& app, Session& session);
void add_completions(CLI::App& app, Session& session);
void add_help(CLI::App& app, Session& session);

}  // namespace bumblebee::cli
