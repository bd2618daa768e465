// `pull`: a repository of the Hub into the cache, or what is newer of it. Prints where it lies.
#include <cstdio>

#include "bumblebee/hub.h"
#include "commands/commands.h"
#include "options/hub_source.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct PullFlags {
  CommonFlags common;
  std::string source, model, revision;
  std::vector<std::string> include, exclude;
  int jobs = 8;
  const Option *source_option = nullptr, *model_option = nullptr;
};

void print_as_json(const std::string& id, const PullResult& result) {
  print_json({{"repository", id},
              {"directory", result.directory.string()},
              {"commit", result.commit},
              {"files", result.files},
              {"fetched_files", result.fetched_files},
              {"bytes", result.bytes},
              {"fetched_bytes", result.fetched_bytes},
              {"stale", result.stale.empty() ? OutJson(nullptr) : OutJson(result.stale)}});
}

void remark(const PullFlags& flags, const PullResult& result) {
  // Said always: the files may be older than what was asked for.
  if (!result.stale.empty())
    std::fprintf(stderr, "bumblebee: the whole snapshot in the cache is used: %s\n", one_line(result.stale).c_str());
  if (!flags.common.remarks()) return;
  std::fprintf(stderr, "%d files, %s; fetched %d, %s; commit %s\n", result.files,
               human_bytes(double(result.bytes)).c_str(), result.fetched_files,
               human_bytes(double(result.fetched_bytes)).c_str(), result.commit.c_str());
}

int run(const PullFlags& flags) {
  const Option* from = exclusive({flags.source_option, flags.model_option});
  if (from == nullptr) throw UsageError("no repository given: bumblebee pull org/name");
  PullOptions options;
  options.hub = hub_options(flags.common);
  const std::string id = parse_hub_source(from == flags.source_option ? flags.source : flags.model, options.hub);
  const std::string named = HubOptions().revision == options.hub.revision ? "" : options.hub.revision;
  if (!flags.revision.empty() && !named.empty() && named != flags.revision)
    throw UsageError("--revision " + flags.revision + " and the revision of the name, " + named + ", differ");
  if (!flags.revision.empty()) options.hub.revision = flags.revision;
  options.include = flags.include;
  options.exclude = flags.exclude;
  options.workers = flags.jobs;
  const PullResult result = pull(id, options);
  remark(flags, result);
  if (flags.common.json) {
    print_as_json(id, result);
  } else {
    write_out(result.directory.string() + "\n");
  }
  return int(ExitCode::ok);
}

}  // namespace

void add_pull(Parser& app, Session& session) {
  auto flags = std::make_shared<PullFlags>();
  Parser* verb = add_verb(app, {"pull", "Download a model or an adapter from the Hugging Face Hub"});
  flags->source_option = verb->add_option("source", flags->source,
                                          "org/name[/folder][@revision] (revision: branch, tag, commit, refs/pr/N)");
  flags->model_option =
      verb->add_option("-m,--model", flags->model, "The same, as other verbs take it")->option_text("MODEL");
  verb->add_option("--revision", flags->revision, "Branch, tag or commit (default main)")->option_text("REV");
  verb->add_option("--include", flags->include,
                   "Fetch files that match, such as '*.gguf', instead of those that models and adapters need")
      ->allow_extra_args(false)
      ->option_text("PATTERN");
  verb->add_option("--exclude", flags->exclude, "Leave out files that match")
      ->allow_extra_args(false)
      ->option_text("PATTERN");
  verb->add_option("-j,--jobs", flags->jobs, "Files fetched at a time (default 8)")
      ->option_text("N")
      ->check(integer_between(1, 64));
  verb->footer(
      "Fetches what the cache lacks of the newest commit, verified; an interrupted download goes on where it was. The\n"
      "cache is the one that Hugging Face's own tools use. Prints the directory.\n\n"
      "Examples:\n  bumblebee pull mlx-community/Qwen3-0.6B-4bit\n"
      "  bumblebee pull org/adapters/style@v2");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
