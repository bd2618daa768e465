// One function per verb: each registers its flags and what runs. Implementations are one file per verb beside this one.
#pragma once

#include "options/common.h"

namespace bumblebee::cli {

void add_generate(Parser& app, Session& session);
void add_chat(Parser& app, Session& session);
/// Nothing in a build without the server.
void add_serve(Parser& app, Session& session);
void add_info(Parser& app, Session& session);
void add_tokenize(Parser& app, Session& session);
void add_detokenize(Parser& app, Session& session);
void add_logits(Parser& app, Session& session);
void add_perplexity(Parser& app, Session& session);
void add_bench(Parser& app, Session& session);
void add_convert(Parser& app, Session& session);
void add_quantize(Parser& app, Session& session);
void add_adapter(Parser& app, Session& session);
void add_fuse(Parser& app, Session& session);
void add_prepare(Parser& app, Session& session);
void add_train(Parser& app, Session& session);
/// The two above; nothing in a build without training.
void add_training_verbs(Parser& app, Session& session);
void add_pull(Parser& app, Session& session);
void add_cache(Parser& app, Session& session);
void add_doctor(Parser& app, Session& session);
void add_completions(Parser& app, Session& session);
void add_help(Parser& app, Session& session);

}  // namespace bumblebee::cli
