// `train`: a new adapter on a loaded model, from the flags and files of mlx_lm.lora.
#include "bumblebee/train.h"

#include "bumblebee/version.h"

#include <fmt/core.h>

#include <cmath>

#include "commands/commands.h"
#include "commands/train_output.h"
#include "options/adapter_flags.h"
#include "options/model_flags.h"
#include "options/train_flags.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"

namespace bumblebee::cli {

namespace {

struct TrainVerbFlags {
  CommonFlags common;
  ModelFlags model;
  AdapterFlags adapters;
  TrainFlags train;
  const Option* model_option = nullptr;
  bool dry_run = false;
};

std::string rate_of(const TrainOptions& options) {
  const ScheduleOptions& schedule = options.schedule;
  if (schedule.name.empty()) return fmt::format("{:g}, constant", options.learning_rate);
  std::string text = schedule.name + "(";
  for (size_t i = 0; i < schedule.arguments.size(); ++i)
    text += fmt::format("{}{:g}", i == 0 ? "" : ", ", schedule.arguments[i]);
  text += ")";
  if (schedule.warmup > 0) text += fmt::format(" after {} updates of warm-up", schedule.warmup);
  return text;
}

std::string title(const std::string& model, const TrainOptions& options) {
  const auto name = [](std::filesystem::path path) {
    if (path.filename().empty()) path = path.parent_path();
    return path.filename().string();
  };
  return "Training of " + name(options.adapter_path) + " on " + name(model);
}

/// What the page says of the settings, in people's words.
std::vector<std::pair<std::string, std::string>> facts(const std::string& model, const TrainConfig& config,
                                                       const TrainOptions& options) {
  const LoraOptions& lora = options.lora;
  std::string adapter = fmt::format("{}, rank {}, {} {:g}", lora.type == FineTune::dora ? "DoRA" : "LoRA", lora.rank,
                                    lora.rslora ? "alpha" : "scale", lora.scale);
  if (lora.rslora) adapter += ", rank-stabilized";
  if (lora.dropout > 0) adapter += fmt::format(", dropout {:g}", lora.dropout);
  std::string batch = fmt::format("{} rows of up to {} tokens", options.batch_size, options.max_seq_length);
  if (options.packed) batch += ", packed";
  if (options.grad_accumulation_steps > 1)
    batch += fmt::format("; an update after each {}", options.grad_accumulation_steps);
  return {{"model", model},
          {"data", config.data.directory.string()},
          {"learned", config.data.mask_prompt ? "the last message of each row" : "every token of each row"},
          {"adapter", adapter},
          {"optimizer", optimizer_name(options.optimizer.kind)},
          {"learning rate", rate_of(options)},
          {"batch", batch},
          {"seed", std::to_string(options.seed)},
          {"program", std::string("bumblebee ") + version()}};
}

/// --test without --train: how good is the adapter that lies in --adapter-path?
int measure(const TrainVerbFlags& flags, const TrainConfig& config, const Model& model, const Tokenizer& tokenizer,
            TrainOutput& output) {
  const TrainOptions options = config.chosen();
  if (!std::filesystem::is_directory(options.adapter_path)) {
    throw UsageError("--test alone measures the adapter in '" + options.adapter_path.string() +
                     "', which is no directory; --train makes one first");
  }
  std::vector<WeightedAdapter> adapters = load_adapters(flags.adapters, flags.common);
  adapters.emplace_back(load_adapter(repository(options.adapter_path.string())));
  const double loss = test_loss(model, tokenizer, config.data, options, adapters);
  if (flags.common.json) {
    print_json({{"test_loss", loss}, {"test_perplexity", std::exp(loss)}});
  } else {
    output.test(loss);
  }
  return int(ExitCode::ok);
}

/// Also a training that fails leaves its curves: that is when they are looked at.
template <class Train>
TrainResult recorded(const TrainRecord& record, Train&& train) {
  try {
    const TrainResult result = train();
    record.finish(result);
    return result;
  } catch (const std::exception&) {
    record.write_report();
    throw;
  }
}

int run(const TrainVerbFlags& flags) {
  const TrainConfig config = flags.train.config();
  ModelFlags model_flags = flags.model;
  // BUMBLEBEE_MODEL is the default of all verbs: what the file says of this training comes first.
  if (!config.model.empty() && !flags.model_option->typed()) model_flags.model = config.model;
  const Repository from = source(model_flags.model, flags.common);
  TrainOutput output(flags.common);
  for (const std::string& note : config.notes) output.note(note);

  TrainOptions options = config.chosen();
  options.on_top_of = load_adapters(flags.adapters, flags.common);
  options.base_model = model_flags.model;
  const Tokenizer tokenizer = load_tokenizer(from);
  if (const std::string without = config.train ? inspect_model(from).without_derivative : ""; !without.empty()) {
    throw Error(ErrorCode::unsupported, "train",
                "training of this model is not implemented: no derivative of " + without);
  }
  const LoadedModel loaded = load(model_flags, flags.common);
  if (!config.train) return measure(flags, config, loaded.model, tokenizer, output);
  if (flags.dry_run) {
    options.callbacks = output.callbacks();
    output.plan(plan_training(loaded.model, tokenizer, config.data, options, true));
    return int(ExitCode::ok);
  }
  const TrainRecord record(options.adapter_path, {.title = title(model_flags.model, options),
                                                  .facts = facts(model_flags.model, config, options),
                                                  .resume = options.resume});
  options.callbacks = record.callbacks(output.callbacks());
  const TrainResult result =
      recorded(record, [&] { return train_adapter(loaded.model, tokenizer, config.data, options); });
  output.result(result, record, options.resume_adapter_file.empty());
  if (result.end == TrainEnd::cancelled) {
    throw Error(ErrorCode::cancelled, "train",
                "stopped after iteration " + std::to_string(result.iterations) + "; --resume goes on from there");
  }
  return int(ExitCode::ok);
}

}  // namespace

void add_train(Parser& app, Session& session) {
  auto flags = std::make_shared<TrainVerbFlags>();
  Parser* verb = add_verb(app, {"train", "Train an adapter on a model, whose weights stay as they are"});
  verb->own_variables();
  add_model_flags(*verb, flags->model);
  flags->model_option = verb->get_option("--model");
  add_adapter_flags(*verb, flags->adapters);
  flags->train.add_to(*verb);
  verb->add_flag("--dry-run", flags->dry_run,
                 "Print what would be trained, its memory and its time, and train nothing");
  verb->footer(
      "Flags and files are mlx_lm.lora's. --adapter puts frozen adapters under the new one. Ctrl-C stops after the\n"
      "current batch and saves a checkpoint; --resume goes on as if nothing had happened.\n\n"
      "Example:\n  bumblebee train -m DIR --data data --adapter-path my-adapter --iters 600 --mask-prompt");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
