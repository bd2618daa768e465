// `info`: what a checkpoint or an adapter is and what it needs, without reading its weights.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <tuple>

#include "commands/adapter_info.h"
#include "commands/commands.h"
#include "options/model_flags.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct InfoFlags {
  CommonFlags common;
  std::string model, directory;
  int ctx_size = 0;
  std::string kv_type = "auto";
  const Option *model_option = nullptr, *directory_option = nullptr;
};

struct Memory {
  int context = 0;
  uint64_t weights = 0, kv = 0;
  std::string kv_type;
  /// Of the default device: what it has, and what keys and values may take there by default.
  DeviceInfo device;
  uint64_t kv_budget = 0;
  int64_t kv_tokens = 0;
};

/// Half of what is free beside the weights, as a serving takes it.
void plan(Memory& memory, const ModelInfo& info, const DeviceInfo& device) {
  memory.device = device;
  const uint64_t free = memory.device.free_bytes;
  memory.kv_budget = (free - std::min(free, memory.weights)) / 2;
  const uint64_t token = info.kv_bytes(1, kv_type_from(memory.kv_type));
  memory.kv_tokens = token > 0 ? int64_t(memory.kv_budget / token) : 0;
}

std::string budget_line(const Memory& memory) {
  const std::string start = memory.device.name + ": " + human_bytes(double(memory.device.free_bytes)) + " of " +
                            human_bytes(double(memory.device.memory_bytes)) + " free";
  if (memory.weights > (memory.device.own_memory ? memory.device.free_bytes : memory.device.memory_bytes))
    return start + ": the weights do not fit";
  return start + "; beside the weights at most " + human_bytes(double(memory.kv_budget)) +
         " for keys and values (--kv-memory), " + std::to_string(memory.kv_tokens) + " tokens";
}

OutJson module_json(const ModuleInfo& module) {
  OutJson out = {{"name", module.name},   {"out", module.out},    {"in", module.in},
                 {"mode", module.mode},   {"bits", module.bits},  {"group_size", module.group_size},
                 {"dtype", module.dtype}, {"bytes", module.bytes}};
  if (module.experts > 1) out["experts"] = module.experts;
  return out;
}

void print_as_json(const std::string& name, const ModelInfo& info, const Memory& memory) {
  OutJson modules = OutJson::array();
  for (const ModuleInfo& module : info.modules) modules.push_back(module_json(module));
  OutJson out = {{"model", name},
                 {"architecture", info.architecture},
                 {"parameters", info.parameters},
                 {"bytes", info.weight_bytes},
                 {"bits", info.bits},
                 {"group_size", info.group_size},
                 {"mode", info.mode},
                 {"context", info.context},
                 {"layers", info.layers},
                 {"hidden", info.hidden},
                 {"heads", info.heads},
                 {"kv_heads", info.kv_heads},
                 {"head_dim", info.head_dim},
                 {"intermediate", info.intermediate},
                 {"vocab", info.vocab},
                 {"tied_head", info.tied_head}};
  if (info.experts > 0) {
    out["experts"] = info.experts;
    out["experts_per_token"] = info.experts_per_token;
    out["expert_intermediate"] = info.expert_intermediate;
    out["active_bytes"] = info.active_weight_bytes;
  }
  if (info.state_bytes > 0) out["state_bytes"] = info.state_bytes;
  out["memory"] = {{"context", memory.context},
                   {"kv_type", memory.kv_type},
                   {"weights_bytes", memory.weights},
                   {"kv_bytes", memory.kv},
                   {"total_bytes", memory.weights + memory.kv},
                   {"device", memory.device.name},
                   {"device_bytes", memory.device.memory_bytes},
                   {"device_free_bytes", memory.device.free_bytes},
                   {"kv_budget_bytes", memory.kv_budget},
                   {"kv_budget_tokens", memory.kv_tokens}};
  out["modules"] = modules;
  print_json(out);
}

std::string format_of(const ModuleInfo& module) {
  if (module.bits == 0) return module.mode + " " + module.dtype;
  if (module.mode != "affine") return module.mode;
  return module.mode + " " + std::to_string(module.bits) + "-bit, groups of " + std::to_string(module.group_size) +
         " (" + module.dtype + ")";
}

void fact(const char* name, const std::string& value) { write_out(fmt::format("{:14} {}\n", name, value)); }

void print_modules(const ModelInfo& info, bool all) {
  if (all) {
    for (const ModuleInfo& module : info.modules) {
      const std::string experts = module.experts > 1 ? std::to_string(module.experts) + ", " : "";
      fact("module", module.name + "  [" + experts + std::to_string(module.out) + ", " + std::to_string(module.in) +
                         "]  " + format_of(module));
    }
    return;
  }
  struct Group {
    int modules = 0;
    uint64_t bytes = 0;
  };
  std::map<std::string, Group> groups;
  for (const ModuleInfo& module : info.modules) {
    Group& group = groups[format_of(module)];
    group.modules += module.experts;
    group.bytes += module.bytes;
  }
  for (const auto& [format, group] : groups) {
    fact("format", format + ": " + std::to_string(group.modules) + (group.modules == 1 ? " matrix, " : " matrices, ") +
                       human_bytes(double(group.bytes)));
  }
}

void print_as_text(const std::string& name, const ModelInfo& info, const Memory& memory, const InfoFlags& flags) {
  fact("model", name);
  fact("architecture", info.architecture);
  fact("parameters", human_count(double(info.parameters)) + " (" + std::to_string(info.parameters) + ")");
  fact("weights", human_bytes(double(info.weight_bytes)));
  print_modules(info, flags.common.verbose);
  fact("layers", std::to_string(info.layers) + ", hidden " + std::to_string(info.hidden) + ", intermediate " +
                     std::to_string(info.intermediate));
  if (info.experts > 0) {
    fact("experts", std::to_string(info.experts) + ", intermediate " + std::to_string(info.expert_intermediate) + ", " +
                        std::to_string(info.experts_per_token) + " for a token: it reads " +
                        human_bytes(double(info.active_weight_bytes)));
  }
  fact("heads", std::to_string(info.heads) + " of " + std::to_string(info.head_dim) + ", " +
                    std::to_string(info.kv_heads) + " for keys and values");
  fact("vocabulary", std::to_string(info.vocab) + (info.tied_head ? ", tied to the head" : ""));
  fact("context", std::to_string(info.context) + " tokens");
  fact("memory", human_bytes(double(memory.weights + memory.kv)) + " with " + std::to_string(memory.context) +
                     " tokens: " + human_bytes(double(memory.weights)) + " weights, " + human_bytes(double(memory.kv)) +
                     " keys and values (" + memory.kv_type + ")" +
                     (info.state_bytes > 0 ? ", of which " + human_bytes(double(info.state_bytes)) +
                                                 " states of recurrent layers, whatever the length"
                                           : ""));
  fact("budget", budget_line(memory));
  for (const DeviceInfo& device : devices()) {
    if (!device.own_memory) continue;
    Memory card = memory;
    plan(card, info, device);
    fact("", budget_line(card));
  }
}

int run(const InfoFlags& flags) {
  const Option* chosen = exclusive({flags.model_option, flags.directory_option});
  const std::string& name = chosen == flags.directory_option ? flags.directory : flags.model;
  const Repository place = source(name, flags.common);
  if (const std::filesystem::path where = place.place(); is_adapter(where)) {
    print_adapter(where, name, flags.common);
    return int(ExitCode::ok);
  }
  ModelInfo info = inspect_model(place);
  Memory memory;
  memory.kv_type = flags.kv_type == "auto" ? "bf16" : flags.kv_type;
  memory.context = flags.ctx_size > 0 ? flags.ctx_size : info.context;
  memory.weights = info.weight_bytes;
  memory.kv = info.kv_bytes(memory.context, kv_type_from(memory.kv_type)) + info.state_bytes;
  plan(memory, info, devices().front());
  if (flags.common.json) {
    print_as_json(name, info, memory);
  } else {
    print_as_text(name, info, memory, flags);
  }
  return int(ExitCode::ok);
}

}  // namespace

void add_info(Parser& app, Session& session) {
  auto flags = std::make_shared<InfoFlags>();
  Parser* verb = add_verb(app, {"info", "Describe a model or an adapter: weights, memory, changes"});
  verb->alias("show");
  flags->directory_option = verb->add_option("directory", flags->directory, "The model, as -m, or an adapter");
  flags->model_option = add_model_flag(*verb, flags->model);
  verb->add_option("-c,--ctx-size", flags->ctx_size, "Context to compute the memory for (default 0: the model's)")
      ->option_text("N")
      ->check(integer_between(0, 1 << 30))
      ->group("Model");
  add_kv_type_flags(*verb, flags->kv_type);
  verb->footer(
      "With -v every matrix is listed. An adapter is told by its files.\n\nExample:\n  bumblebee info DIR -c 8192");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
