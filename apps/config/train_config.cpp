// One function per part of the file: the run, the adapter, the optimizer, the schedule, the data.
#include "config/train_config.h"

#include <fstream>
#include <limits>
#include <sstream>

#include "config/yaml_map.h"

namespace bumblebee::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMost = std::numeric_limits<int>::max();
constexpr size_t kLargestFile = size_t{1} << 20;

/// Notes on what was read and has no effect.
using Notes = std::vector<std::string>;

void read_lora(const YAML::Node& node, const std::string& where, LoraOptions& lora, Notes& notes) {
  YamlMap map(node, where, "lora_parameters", notes);
  if (map.has("scale")) {  // both stood in mlx-lm's own defaults until 2025
    map.on("alpha", [&](const YAML::Node& alpha) {
      notes.push_back(map.at(alpha) + ": lora_parameters.alpha has no effect: mlx-lm multiplies by 'scale' alone");
    });
  }
  map.integer("rank", lora.rank, 1, kMost);
  map.read("scale", lora.scale);
  map.read("dropout", lora.dropout);
  map.on("keys", [&](const YAML::Node& keys) { lora.keys = map.words(keys, "keys"); });
  map.read("rslora", lora.rslora);
  map.read("b_rate_ratio", lora.b_rate_ratio);
  map.finish({{"alpha", "mlx-lm multiplies by 'scale' alone; write scale: alpha / rank"}});
}

void read_betas(YamlMap& map, OptimizerOptions& options) {
  map.on("betas", [&](const YAML::Node& node) {
    const std::vector<double> betas = map.numbers(node, "betas");
    if (betas.size() != 2) map.fail(node, "'" + map.path("betas") + "': expected two numbers");
    options.betas = {float(betas[0]), float(betas[1])};
  });
}

void read_adafactor(YamlMap& map, OptimizerOptions& options) {
  map.on("eps", [&](const YAML::Node& node) {
    const std::vector<double> eps = map.numbers(node, "eps");
    if (eps.size() != 2) map.fail(node, "'" + map.path("eps") + "': expected two numbers");
    options.factored_eps = {float(eps[0]), float(eps[1])};
  });
  map.read("clip_threshold", options.clip_threshold);
  map.read("decay_rate", options.decay_rate);
  map.read("beta_1", options.beta_1);
  map.read("weight_decay", options.weight_decay);
  map.read("scale_parameter", options.scale_parameter);
  map.read("relative_step", options.relative_step);
  map.read("warmup_init", options.warmup_init);
}

OptimizerOptions read_optimizer(const YAML::Node& node, const std::string& where, const std::string& name,
                                Notes& notes) {
  OptimizerOptions options;
  options.kind = optimizer_from(name, where);
  if (node.IsNull()) return options;
  YamlMap map(node, where, "optimizer_config." + name, notes);
  switch (options.kind) {
    case OptimizerKind::adamw: map.read("weight_decay", options.weight_decay); [[fallthrough]];
    case OptimizerKind::adam:
      read_betas(map, options);
      map.read("eps", options.eps);
      map.read("bias_correction", options.bias_correction);
      break;
    case OptimizerKind::muon: map.read("ns_steps", options.ns_steps); [[fallthrough]];
    case OptimizerKind::sgd:
      map.read("momentum", options.momentum);
      map.read("weight_decay", options.weight_decay);
      map.read("nesterov", options.nesterov);
      if (options.kind == OptimizerKind::sgd) map.read("dampening", options.dampening);
      break;
    case OptimizerKind::adafactor: read_adafactor(map, options); break;
  }
  map.finish({{"learning_rate", "it is a key of the file itself"}});
  return options;
}

void read_schedule(const YAML::Node& node, const std::string& where, ScheduleOptions& schedule, Notes& notes) {
  schedule = {};
  YamlMap map(node, where, "lr_schedule", notes);
  map.read("name", schedule.name);
  map.on("arguments", [&](const YAML::Node& list) { schedule.arguments = map.numbers(list, "arguments"); });
  map.integer("warmup", schedule.warmup, 0, kMost);
  map.read("warmup_init", schedule.warmup_init);
  map.finish();
  if (schedule.name.empty()) map.fail(node, "'lr_schedule': expected a 'name', such as cosine_decay");
  if (schedule.arguments.empty()) map.fail(node, "'lr_schedule': expected 'arguments', the first a learning rate");
}

void read_features(YamlMap& map, TrainData& data) {
  map.read("prompt_feature", data.prompt_feature);
  map.read("completion_feature", data.completion_feature);
  map.read("chat_feature", data.chat_feature);
  map.read("text_feature", data.text_feature);
}

void read_hf_dataset(const YAML::Node& given, const std::string& where, TrainConfig& config) {
  YAML::Node node = given;
  if (given.IsSequence()) {
    if (given.size() != 1) {
      throw Error(
          ErrorCode::unsupported, where,
          "'hf_dataset' with " + std::to_string(given.size()) + " data sets: expected one, in a local directory");
    }
    node = given[0];
  }
  YamlMap map(node, where, "hf_dataset", config.notes);
  std::string path;
  map.read("path", path);
  read_features(map, config.data);
  for (const char* key : {"config", "train_split", "valid_split", "test_split"}) {
    map.on(key, [&](const YAML::Node& value) {
      throw Error(ErrorCode::unsupported, map.at(value),
                  std::string("'hf_dataset.") + key +
                      "': data sets are not downloaded or cut here; give 'path' a directory with train.jsonl and "
                      "valid.jsonl");
    });
  }
  map.finish();
  if (!fs::is_directory(path)) {
    throw Error(
        ErrorCode::unsupported, map.at(node),
        "'hf_dataset': data sets are not downloaded; expected 'path' to be a directory with train.jsonl, got '" + path +
            "'");
  }
  config.data.directory = path;
}

void read_adapter_kind(YamlMap& map, TrainConfig& config) {
  map.on("fine_tune_type", [&](const YAML::Node& node) {
    const auto name = map.as<std::string>(node, "fine_tune_type");
    if (name == "full") {
      throw Error(ErrorCode::unsupported, map.at(node),
                  "'fine_tune_type: full': the base is never changed here; expected lora or dora");
    }
    if (name != "lora" && name != "dora") map.fail(node, "'fine_tune_type': expected lora or dora, got '" + name + "'");
    config.options.lora.type = name == "dora" ? FineTune::dora : FineTune::lora;
  });
  map.integer("num_layers", config.options.lora.num_layers, -1, kMost);
  map.on("lora_parameters",
         [&](const YAML::Node& node) { read_lora(node, map.where(), config.options.lora, config.notes); });
}

void read_learning(YamlMap& map, TrainConfig& config) {
  TrainOptions& options = config.options;
  map.on("optimizer", [&](const YAML::Node& node) {
    options.optimizer.kind = optimizer_from(map.as<std::string>(node, "optimizer"), map.at(node));
  });
  map.on("optimizer_config", [&](const YAML::Node& node) {
    if (!node.IsMap()) map.fail(node, "'optimizer_config': expected a mapping");
    for (const auto& entry : node) {
      const OptimizerOptions one = read_optimizer(entry.second, map.where(), entry.first.Scalar(), config.notes);
      config.optimizers[one.kind] = one;
    }
  });
  map.read("learning_rate", options.learning_rate);
  map.on("lr_schedule",
         [&](const YAML::Node& node) { read_schedule(node, map.where(), options.schedule, config.notes); });
  map.integer("batch_size", options.batch_size, 1, kMost);
  map.integer("iters", options.iters, 1, kMost);
  map.integer("grad_accumulation_steps", options.grad_accumulation_steps, 1, kMost);
  map.integer("max_seq_length", options.max_seq_length, 2, kMost);
  map.read("grad_checkpoint", options.grad_checkpoint);
  map.read("seed", options.seed);
  map.read("max_grad_norm", options.max_grad_norm);
  map.read("max_loss", options.max_loss);
  map.read("packed", options.packed);
}

void read_cadence(YamlMap& map, TrainConfig& config) {
  TrainOptions& options = config.options;
  map.read("train", config.train);
  map.read("test", options.test);
  map.integer("val_batches", options.val_batches, -1, kMost);
  map.integer("test_batches", options.test_batches, -1, kMost);
  map.integer("steps_per_report", options.steps_per_report, 1, kMost);
  map.integer("steps_per_eval", options.steps_per_eval, 1, kMost);
  map.integer("save_every", options.save_every, 1, kMost);
  map.integer("keep_checkpoints", options.keep_checkpoints, 0, kMost);
  map.integer("early_stopping", options.early_stopping, 0, kMost);
  map.integer("report_samples", options.report_samples, 0, kMost);
  map.integer("sample_tokens", options.sample_tokens, 1, kMost);
  map.read("save_best", options.save_best);
  map.on("sample_prompts", [&](const YAML::Node& node) { options.sample_prompts = map.words(node, "sample_prompts"); });
  map.on("adapter_format", [&](const YAML::Node& node) {
    const auto name = map.as<std::string>(node, "adapter_format");
    if (name != "mlx" && name != "peft") map.fail(node, "'adapter_format': expected mlx or peft, got '" + name + "'");
    options.format = name == "peft" ? AdapterFormat::peft : AdapterFormat::mlx;
  });
}

void read_paths(YamlMap& map, TrainConfig& config) {
  const auto path = [&](const char* key, fs::path& to) {
    map.on(key, [&](const YAML::Node& node) { to = map.as<std::string>(node, key); });
  };
  map.read("model", config.model);
  path("data", config.data.directory);
  path("adapter_path", config.options.adapter_path);
  path("resume_adapter_file", config.options.resume_adapter_file);
  map.read("mask_prompt", config.data.mask_prompt);
  read_features(map, config.data);
  map.on("hf_dataset", [&](const YAML::Node& node) {
    if (node.IsScalar() && node.Scalar() == "false") return;
    read_hf_dataset(node, map.where(), config);
  });
}

/// Keys about other services and other machines: they change nothing of what is trained.
void read_without_effect(YamlMap& map, TrainConfig& config) {
  for (const char* key : {"wandb", "report_to", "project_name"}) {
    map.on(key, [&](const YAML::Node&) {
      config.notes.push_back(std::string(key) +
                             ": no service is reported to; metrics.jsonl and report.html hold it all");
    });
  }
  map.on("clear_cache_threshold",
         [&](const YAML::Node&) { config.notes.push_back("clear_cache_threshold: there is no such cache"); });
  map.on("trust_remote_code", [&](const YAML::Node& node) {
    if (map.as<bool>(node, "trust_remote_code")) config.notes.push_back("trust_remote_code: no code is ever run");
  });
  map.on("config", [](const YAML::Node&) {});  // mlx-lm writes its own path there
}

}  // namespace

std::string optimizer_name(OptimizerKind kind) {
  for (const char* name : {"adam", "adamw", "muon", "sgd"}) {
    if (optimizer_from(name, {}) == kind) return name;
  }
  return "adafactor";
}

OptimizerKind optimizer_from(const std::string& name, std::string_view where) {
  std::string lower;
  for (const char c : name) lower += char(std::tolower(static_cast<unsigned char>(c)));
  if (lower == "adam") return OptimizerKind::adam;
  if (lower == "adamw") return OptimizerKind::adamw;
  if (lower == "muon") return OptimizerKind::muon;
  if (lower == "sgd") return OptimizerKind::sgd;
  if (lower == "adafactor") return OptimizerKind::adafactor;
  throw Error(ErrorCode::bad_config, where,
              "optimizer: expected adam, adamw, muon, sgd or adafactor, got '" + name.substr(0, 60) + "'");
}

TrainOptions TrainConfig::chosen() const {
  TrainOptions out = options;
  if (const auto found = optimizers.find(options.optimizer.kind); found != optimizers.end()) {
    out.optimizer = found->second;
  }
  return out;
}

void parse_train_config(const std::string& text, std::string_view where, TrainConfig& config) {
  const std::string name(where);
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw Error(ErrorCode::bad_file, error.mark.line < 0 ? name : name + ":" + std::to_string(error.mark.line + 1),
                "not YAML: " + error.msg);
  }
  if (root.IsNull()) return;
  YamlMap map(root, name, "", config.notes);
  read_paths(map, config);
  read_adapter_kind(map, config);
  read_learning(map, config);
  read_cadence(map, config);
  read_without_effect(map, config);
  map.finish(
      {{"lora_layers", "mlx-lm calls it num_layers since October 2024"}, {"use_dora", "write fine_tune_type: dora"}});
}

void read_train_config(const fs::path& path, TrainConfig& config) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kLargestFile + 1, '\0');
  if (fs::is_directory(path) || !file) throw Error(ErrorCode::bad_file, path.string(), "cannot be read as a file");
  file.read(text.data(), std::streamsize(text.size()));
  text.resize(size_t(file.gcount()));
  if (text.size() > kLargestFile) throw Error(ErrorCode::bad_file, path.string(), "expected at most 1 MiB of YAML");
  parse_train_config(text, path.string(), config);
}

}  // namespace bumblebee::cli
