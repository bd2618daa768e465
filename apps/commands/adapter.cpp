// `adapter`: converting adapters between the formats of mlx-lm and PEFT, and merging several into one.
#include <filesystem>

#include "bumblebee/model.h"
#include "commands/commands.h"
#include "commands/output_directory.h"
#include "commands/read_adapter_source.h"
#include "lora/merge.h"
#include "lora/mlx_names.h"
#include "lora/write_adapter.h"
#include "options/hub_source.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct AdapterVerbFlags {
  CommonFlags common;
  std::string action, output, to, base;
  std::vector<std::string> paths;
  bool untied_head = false, force = false;
};

lora::WriteOptions write_options(const AdapterVerbFlags& flags) {
  lora::WriteOptions options;
  options.untied_head = flags.untied_head;
  if (flags.base.empty()) return options;
  const ModelInfo info = inspect_model(hub_source(flags.base, flags.common));
  options.layers = info.layers;
  for (const ModuleInfo& module : info.modules) options.modules.insert(module.name);
  options.prefix = lora::mlx_prefix(hub_source(flags.base, flags.common).directory());
  options.untied_head = options.untied_head || !info.tied_head;
  return options;
}

int write(const AdapterVerbFlags& flags, const lora::Adapter& adapter, lora::Dialect to,
          std::vector<std::string> notes) {
  std::vector<std::filesystem::path> inputs;
  for (const std::string& path : flags.paths) inputs.push_back(AdapterSource::parse(path).place(flags.common));
  if (!flags.base.empty()) inputs.push_back(hub_source(flags.base, flags.common).directory());
  OutputDirectory directory(
      flags.output, flags.force ? OutputDirectory::Existing::replace : OutputDirectory::Existing::refuse, inputs);
  for (std::string& note : lora::write_adapter(adapter, to, directory.work(), write_options(flags)))
    notes.push_back(std::move(note));
  directory.finish();
  const auto under = adapter.facts.find("on_top_of");
  const std::string needs = under == adapter.facts.end() ? "" : under->second;
  if (flags.common.json) {
    print_json({{"output", flags.output},
                {"format", to == lora::Dialect::mlx ? "mlx" : "peft"},
                {"modules", adapter.modules.size()},
                {"on_top_of", needs},
                {"exact", notes.empty()},
                {"notes", notes}});
    return int(ExitCode::ok);
  }
  write_out(told_strengths(flags.paths));
  for (const std::string& note : notes) write_out("note     " + note + "\n");
  if (!needs.empty())
    write_out("note     trained on top of " + one_line(needs) + ": needed too, unless it is among what was merged\n");
  write_out("wrote    " + flags.output + ": " + std::string(to_string(to)) + ", " +
            std::to_string(adapter.modules.size()) + " modules\n");
  return int(ExitCode::ok);
}

lora::Dialect dialect(const std::string& name) { return name == "mlx" ? lora::Dialect::mlx : lora::Dialect::peft; }

int convert(AdapterVerbFlags flags) {
  if (flags.to.empty()) throw UsageError("adapter convert needs --to mlx or --to peft");
  if (flags.output.empty() && flags.paths.size() == 2) {
    flags.output = flags.paths.back();
    flags.paths.pop_back();
  }
  if (flags.paths.size() != 1 || flags.output.empty())
    throw UsageError("expected one adapter and one output: bumblebee adapter convert ADAPTER DIR --to peft");
  const lora::Merged one = sum_of({read(AdapterSource::parse(flags.paths.front()), flags.common)});
  return write(flags, one.adapter, dialect(flags.to), one.notes);
}

int merge(const AdapterVerbFlags& flags) {
  if (flags.output.empty()) throw UsageError("adapter merge needs the output: -o DIR");
  if (flags.paths.empty()) throw UsageError("no adapters given: bumblebee adapter merge A:0.7 B:0.3 -o DIR");
  std::vector<lora::Weighted> parts;
  for (const std::string& path : flags.paths) {
    parts.push_back(read(AdapterSource::parse(path), flags.common));
  }
  const lora::Merged merged = lora::merge(parts);
  for (const std::string& other : merged.other_bases)
    note("the bases differ, and the result names none: '" + parts.front().adapter.base + "' and '" + other + "'");
  return write(flags, merged.adapter, flags.to.empty() ? merged.adapter.dialect : dialect(flags.to), merged.notes);
}

int run(const AdapterVerbFlags& flags) {
  if (flags.action.empty())
    throw UsageError("expected an action: bumblebee adapter convert, or bumblebee adapter merge");
  return flags.action == "convert" ? convert(flags) : merge(flags);
}

}  // namespace

void add_adapter(Parser& app, Session& session) {
  auto flags = std::make_shared<AdapterVerbFlags>();
  Parser* verb = add_verb(app, {"adapter", "Convert an adapter between formats, or merge several into one"});
  verb->own_variables();
  verb->add_option("action", flags->action, "convert or merge")->check(one_of({"convert", "merge"}));
  verb->add_option(
      "paths", flags->paths,
      "convert: ADAPTER DIR; merge: ADAPTER... (each a directory or org/name, with :WEIGHT or :scale=X if wanted)");
  verb->add_option("--to", flags->to, "The format to write: mlx or peft (merge: as the first adapter)")
      ->option_text("FORMAT")
      ->check(one_of({"mlx", "peft"}));
  verb->add_option("-o,--output-dir", flags->output, "The directory to make")->option_text("DIR");
  verb->add_option("--base", flags->base,
                   "The base model, where a format depends on it: its number of layers, its head, its names in mlx-lm")
      ->option_text("MODEL");
  verb->add_flag("--untied-head", flags->untied_head,
                 "The base's head is not tied to its embedding (as --base finds out)");
  verb->add_flag("--force", flags->force,
                 "Replace what an earlier run wrote in the output directory; other files stay");
  verb->footer(
      "convert writes the same numbers in the other format; what that format has no place for is refused. merge "
      "writes\n"
      "the sum of WEIGHT times each adapter's change, its factors side by side, so that nothing is approximated.\n\n"
      "Examples:\n  bumblebee adapter convert mlx-adapter peft-adapter --to peft\n"
      "  bumblebee adapter merge style:0.7 facts:0.3 -o both");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
