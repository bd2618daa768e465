// `cache`: what lies in the cache of the Hugging Face Hub; removing, pruning, verifying.
#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

#include "bumblebee/hub.h"
#include "commands/commands.h"
#include "options/hub_source.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/json_out.h"
#include "ui/progress.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct CacheFlags {
  CommonFlags common;
  std::string action;
  std::vector<std::string> targets;
  bool dry_run = false, revisions = false, names = false, yes = false;
  const Option *dry_run_option = nullptr, *revisions_option = nullptr, *names_option = nullptr, *yes_option = nullptr;
};

std::string shown(const CachedRepository& one) { return one.type == "model" ? one.id : one.type + "/" + one.id; }

std::string day(int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  char text[16] = "";
  if (seconds > 0 && ::localtime_r(&time, &parts) != nullptr) std::strftime(text, sizeof text, "%Y-%m-%d", &parts);
  return text;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

void row(const std::string& name, uint64_t bytes, int files, int64_t modified, const std::string& note) {
  write_out(fmt::format("{:>10} {:6}  {:10}  {}{}{}\n", human_bytes(double(bytes)), files, day(modified),
                        one_line(name), note.empty() ? "" : "  ", one_line(note)));
}

OutJson as_json(const CacheListing& listing) {
  OutJson repositories = OutJson::array();
  for (const CachedRepository& one : listing.repositories) {
    OutJson revisions = OutJson::array();
    for (const CachedRevision& revision : one.revisions)
      revisions.push_back({{"commit", revision.commit},
                           {"refs", revision.refs},
                           {"bytes", revision.bytes},
                           {"files", revision.files},
                           {"modified", revision.modified}});
    repositories.push_back({{"type", one.type},
                            {"id", one.id},
                            {"directory", one.folder.string()},
                            {"bytes", one.bytes},
                            {"partial_bytes", one.partial_bytes},
                            {"files", one.files},
                            {"modified", one.modified},
                            {"revisions", revisions}});
  }
  return {{"directory", listing.directory.string()},
          {"bytes", listing.bytes},
          {"repositories", repositories},
          {"warnings", listing.warnings}};
}

/// Whether its id can be given to a verb: a folder may have any name, and what completes a command line is run there.
bool has_usable_name(const CachedRepository& one) {
  HubOptions ignored;
  try {
    return one.type == "model" && parse_hub_source(one.id, ignored) == one.id;
  } catch (const Error&) {
    return false;
  }
}

int list(const CacheFlags& flags) {
  if (!flags.targets.empty()) throw UsageError("cache ls takes no names");
  const CacheListing listing = list_cache();
  if (flags.common.json) {
    print_json(as_json(listing));
    return int(ExitCode::ok);
  }
  if (flags.names) {
    for (const CachedRepository& one : listing.repositories) {
      if (has_usable_name(one)) write_out(one.id + "\n");
    }
    return int(ExitCode::ok);
  }
  for (const CachedRepository& one : listing.repositories) {
    std::vector<std::string> refs;
    for (const CachedRevision& revision : one.revisions)
      refs.insert(refs.end(), revision.refs.begin(), revision.refs.end());
    std::string note = refs.empty() || flags.revisions ? "" : "(" + joined(refs) + ")";
    if (one.partial_bytes > 0) note += " " + human_bytes(double(one.partial_bytes)) + " of interrupted downloads";
    row(shown(one), one.bytes, one.files, one.modified, note);
    if (!flags.revisions) continue;
    for (const CachedRevision& revision : one.revisions)
      row("  @" + revision.commit, revision.bytes, revision.files, revision.modified, joined(revision.refs));
  }
  write_out(human_bytes(double(listing.bytes)) + " in " + one_line(listing.directory.string()) + "\n");
  for (const std::string& warning : listing.warnings)
    std::fprintf(stderr, "bumblebee: %s\n", one_line(warning).c_str());
  return int(ExitCode::ok);
}

int report(const CacheFlags& flags, const CacheRemoval& removal) {
  if (flags.common.json) {
    print_json({{"removed", removal.removed}, {"bytes", removal.bytes}, {"dry_run", flags.dry_run}});
    return int(ExitCode::ok);
  }
  const std::string verb = flags.dry_run ? "would remove  " : "removed  ";
  for (const std::string& one : removal.removed) write_out(verb + one_line(one) + "\n");
  write_out((removal.removed.empty()
                 ? "nothing to remove"
                 : human_bytes(double(removal.bytes)) + " " + (flags.dry_run ? "would be freed" : "freed")) +
            "\n");
  return int(ExitCode::ok);
}

/// Asks a person: what goes is gone for Python's tools as well.
bool agreed(const std::vector<std::string>& targets) {
  const CacheRemoval would = remove_cached(targets, CacheAct::report);
  if (would.removed.empty()) return true;
  std::fprintf(stderr, "remove %s (%s), for all tools that share this cache? [y/N] ",
               one_line(joined(would.removed)).c_str(), human_bytes(double(would.bytes)).c_str());
  const int answer = std::getchar();
  return answer == 'y' || answer == 'Y';
}

int remove(const CacheFlags& flags) {
  if (flags.targets.empty()) throw UsageError("nothing named: bumblebee cache rm org/name, or org/name@revision");
  if (!flags.dry_run && !flags.yes && !flags.common.json && ::isatty(STDIN_FILENO) == 1 && is_terminal(stderr) &&
      !agreed(flags.targets))
    throw Error(ErrorCode::cancelled, "cache rm", "nothing was removed");
  return report(flags, remove_cached(flags.targets, flags.dry_run ? CacheAct::report : CacheAct::remove));
}

int prune(const CacheFlags& flags) {
  if (!flags.targets.empty())
    throw UsageError("cache prune takes no names; 'bumblebee cache rm' removes what is named");
  return report(flags, prune_cache(flags.dry_run ? CacheAct::report : CacheAct::remove));
}

/// What is verified: the named ones, else every model's revisions.
std::vector<std::pair<std::string, std::string>> to_verify(const CacheFlags& flags) {
  std::vector<std::pair<std::string, std::string>> chosen;
  for (const std::string& target : flags.targets) {
    HubOptions options;
    const std::string id = parse_hub_source(target, options);
    if (!options.subdir.empty()) throw UsageError("cache verify takes whole repositories: org/name[@revision]");
    chosen.emplace_back(id, options.revision);
  }
  if (!flags.targets.empty()) return chosen;
  for (const CachedRepository& one : list_cache().repositories) {
    if (one.type != "model") continue;
    for (const CachedRevision& revision : one.revisions) chosen.emplace_back(one.id, revision.commit);
  }
  return chosen;
}

void print_verification(const CacheVerification& result) {
  const std::string name = result.id + "@" + result.commit;
  for (const std::string& broken : result.broken) write_out("broken   " + name + " " + one_line(broken) + "\n");
  for (const std::string& path : result.missing) write_out("missing  " + name + " " + one_line(path) + "\n");
  for (const std::string& path : result.unverifiable) write_out("unknown  " + name + " " + one_line(path) + "\n");
  const bool good = result.broken.empty() && result.missing.empty();
  write_out((good ? "good     " : "BAD      ") + name + ": " + std::to_string(result.files) + " files, " +
            human_bytes(double(result.bytes)) + " hashed\n");
}

int verify(const CacheFlags& flags) {
  OutJson results = OutJson::array();
  bool good = true;
  for (const auto& [id, revision] : to_verify(flags)) {
    ProgressBar bar("hashing", ProgressBar::Unit::bytes, flags.common.progress());
    const CacheVerification result = verify_cached(id, revision, {}, [&](uint64_t done, uint64_t total) {
      bar.update(done, total);
      return !interrupt::requested();
    });
    bar.clear();
    good = good && result.broken.empty() && result.missing.empty();
    if (!flags.common.json) print_verification(result);
    results.push_back({{"id", result.id},
                       {"commit", result.commit},
                       {"files", result.files},
                       {"bytes", result.bytes},
                       {"broken", result.broken},
                       {"missing", result.missing},
                       {"unverifiable", result.unverifiable}});
  }
  if (flags.common.json) print_json({{"good", good}, {"results", results}});
  if (results.empty() && !flags.common.json) write_out("no models to verify\n");
  if (!good && !flags.common.json)
    std::fputs("bumblebee: remove what is bad ('bumblebee cache rm org/name@commit') and pull it again\n", stderr);
  return int(good ? ExitCode::ok : ExitCode::bad_file);
}

/// A flag that the action does not have: refused where it was typed, without effect where it comes from its variable.
void leave_out(bool& flag, const Option* option, const char* refusal) {
  if (flag && option->typed()) throw UsageError(refusal);
  flag = false;
}

int run(const CacheFlags& given) {
  CacheFlags flags = given;
  if (flags.action == "list") flags.action = "ls";
  if (flags.action == "remove" || flags.action == "delete") flags.action = "rm";
  if (flags.action != "ls") {
    leave_out(flags.revisions, flags.revisions_option, "--revisions and --names are flags of 'cache ls'");
    leave_out(flags.names, flags.names_option, "--revisions and --names are flags of 'cache ls'");
  }
  if (flags.action != "rm") leave_out(flags.yes, flags.yes_option, "--yes is a flag of 'cache rm'");
  if (flags.action != "rm" && flags.action != "prune")
    leave_out(flags.dry_run, flags.dry_run_option, "--dry-run is a flag of 'cache rm' and 'cache prune'");
  if (flags.action == "ls") return list(flags);
  if (flags.action == "rm") return remove(flags);
  if (flags.action == "prune") return prune(flags);
  if (flags.action == "verify") return verify(flags);
  throw UsageError("expected an action: bumblebee cache ls, rm, prune or verify");
}

}  // namespace

void add_cache(Parser& app, Session& session) {
  auto flags = std::make_shared<CacheFlags>();
  Parser* verb = add_verb(app, {"cache", "Look after downloaded models: list, remove, prune, verify"});
  verb->own_variables();
  verb->add_option("action", flags->action, "ls (list), rm (remove), prune or verify")
      ->check(one_of({"ls", "list", "rm", "remove", "delete", "prune", "verify"}))
      ->suggests({"ls", "rm", "prune", "verify"});
  verb->add_option("targets", flags->targets,
                   "rm: org/name, org/name@revision or a commit; verify: org/name[@revision] (none: all models)");
  flags->revisions_option = verb->add_flag("--revisions", flags->revisions, "ls: a line for each revision as well");
  flags->names_option = verb->add_flag("--names", flags->names, "ls: only the names of models, for scripts");
  flags->yes_option = verb->add_flag("-y,--yes", flags->yes, "rm: do not ask, as a terminal is asked otherwise");
  flags->dry_run_option = verb->add_flag("--dry-run", flags->dry_run, "rm, prune: only say what would go");
  verb->footer(
      "prune removes revisions that no branch or tag leads to, and what interrupted downloads left. verify hashes "
      "every\n"
      "file, without a network, and exits with 3 when one is not what its hash says.\n\n"
      "Examples:\n  bumblebee cache ls\n  bumblebee cache rm org/name --dry-run");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
