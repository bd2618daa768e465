// One group of flags per function.
#include "options/train_flags.h"

#include <charconv>
#include <cmath>

#include "options/validators.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

namespace {

constexpr int64_t kMost = 1 << 30;

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out(1);
  for (const char c : text) {
    if (c == at) {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  return out;
}

ScheduleOptions schedule_from(const std::string& text, const ScheduleOptions& old) {
  ScheduleOptions out = old;  // keeps the warm-up
  const size_t colon = text.find(':');
  out.name = text.substr(0, colon);
  out.arguments.clear();
  if (colon == std::string::npos) throw UsageError("--lr-schedule: expected NAME:RATE,..., got '" + text + "'");
  for (const std::string& word : split(text.substr(colon + 1), ',')) {
    double number = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error != std::errc() || end != word.data() + word.size() || !std::isfinite(number))
      throw UsageError("--lr-schedule: expected numbers after the name, got '" + word + "'");
    out.arguments.push_back(number);
  }
  return out;
}

OptimizerOptions& optimizer(TrainConfig& config) {
  OptimizerOptions& out = config.optimizers[config.options.optimizer.kind];
  out.kind = config.options.optimizer.kind;
  return out;
}

}  // namespace

template <class T, class Set>
Option* TrainFlags::value(Parser& verb, const char* names, const char* help, const char* text, Set set) {
  auto store = std::make_shared<T>();
  Option* option = verb.add_option(names, *store, help)->option_text(text);
  apply_.push_back([option, store, set](TrainConfig& config) {
    if (option->count() > 0) set(config, *store);
  });
  return option;
}

template <class Set>
Option* TrainFlags::toggle(Parser& verb, const char* names, const char* help, Set set) {
  auto store = std::make_shared<bool>(false);
  Option* option = verb.add_flag(names, *store, help);
  apply_.push_back([option, store, set](TrainConfig& config) {
    if (option->count() > 0) set(config, *store);
  });
  return option;
}

void TrainFlags::add_data(Parser& verb) {
  const auto group = [](Option* option) { return option->group("Data"); };
  using std::string;
  group(value<string>(verb, "--data", "Directory with train.jsonl, valid.jsonl and test.jsonl", "DIR",
                      [](TrainConfig& c, const string& v) { c.data.directory = v; }));
  group(toggle(verb, "--mask-prompt", "Learn the last message, or the completion, alone",
               [](TrainConfig& c, bool v) { c.data.mask_prompt = v; }));
  group(value<int>(verb, "--max-seq-length", "Tokens of a row; longer ones are cut, and counted (default 2048)", "N",
                   [](TrainConfig& c, int v) { c.options.max_seq_length = v; }))
      ->check(integer_between(2, kMost));
  group(value<int>(verb, "--batch-size", "Rows of a batch (default 4)", "N", [](TrainConfig& c, int v) {
    c.options.batch_size = v;
  }))->check(integer_between(1, kMost));
  group(toggle(verb, "--packed", "Fill batches up to --max-seq-length times --batch-size tokens, rows kept apart",
               [](TrainConfig& c, bool v) { c.options.packed = v; }));
  group(value<string>(verb, "--prompt-feature", "Key of prompts (default prompt)", "KEY",
                      [](TrainConfig& c, const string& v) { c.data.prompt_feature = v; }));
  group(value<string>(verb, "--completion-feature", "Key of completions (default completion)", "KEY",
                      [](TrainConfig& c, const string& v) { c.data.completion_feature = v; }));
  group(value<string>(verb, "--chat-feature", "Key of conversations (default messages)", "KEY",
                      [](TrainConfig& c, const string& v) { c.data.chat_feature = v; }));
  group(value<string>(verb, "--text-feature", "Key of texts (default text)", "KEY",
                      [](TrainConfig& c, const string& v) { c.data.text_feature = v; }));
}

void TrainFlags::add_adapter(Parser& verb) {
  const auto group = [](Option* option) { return option->group("Adapter"); };
  using std::string;
  group(value<string>(verb, "--fine-tune-type", "lora or dora (default lora)", "TYPE",
                      [](TrainConfig& c, const string& v) {
                        if (v == "full")
                          throw Error(ErrorCode::unsupported, "--fine-tune-type",
                                      "full: the base is never changed here; expected lora or dora");
                        c.options.lora.type = v == "dora" ? FineTune::dora : FineTune::lora;
                      }))
      ->check(one_of({"lora", "dora", "full"}));
  group(value<int>(verb, "--num-layers", "Layers to adapt, from the last; -1: all (default 16)", "N",
                   [](TrainConfig& c, int v) { c.options.lora.num_layers = v; }))
      ->check(integer_between(-1, kMost));
  group(value<int>(verb, "--rank", "Rank of the factors (default 8)", "N", [](TrainConfig& c, int v) {
    c.options.lora.rank = v;
  }))->check(integer_between(1, kMost));
  group(value<float>(verb, "--scale", "Multiplies B(A x); with --rslora it is alpha (default 20)", "X",
                     [](TrainConfig& c, float v) { c.options.lora.scale = v; }))
      ->check(number_between(-1e6, 1e6));
  group(value<float>(verb, "--dropout", "Share of the inputs of A that a step drops (default 0)", "X",
                     [](TrainConfig& c, float v) { c.options.lora.dropout = v; }))
      ->check(number_between(0, 0.999));
  group(value<std::vector<string>>(verb, "--keys",
                                   "Module to adapt, as self_attn.q_proj; repeatable (default: all linear)", "PATH",
                                   [](TrainConfig& c, const std::vector<string>& v) {
                                     c.options.lora.keys.clear();
                                     for (const string& list : v)
                                       for (const string& key : split(list, ',')) c.options.lora.keys.push_back(key);
                                   }))
      ->allow_extra_args(false);
  group(toggle(verb, "--rslora", "Multiply by scale over the root of the rank",
               [](TrainConfig& c, bool v) { c.options.lora.rslora = v; }));
  group(value<string>(verb, "--resume-adapter-file", "Weights to begin with: an adapter's directory or file", "FILE",
                      [](TrainConfig& c, const string& v) { c.options.resume_adapter_file = v; }));
}

void TrainFlags::add_learning(Parser& verb) {
  const auto group = [](Option* option) { return option->group("Learning"); };
  using std::string;
  group(toggle(verb, "--train", "Train; this is the default unless --test stands alone",
               [](TrainConfig& c, bool v) { c.train = v; }));
  group(value<string>(
            verb, "--optimizer", "adam, adamw, muon, sgd or adafactor (default adam)", "NAME",
            [](TrainConfig& c, const string& v) { c.options.optimizer.kind = optimizer_from(v, "--optimizer"); }))
      ->check(one_of({"adam", "adamw", "muon", "sgd", "adafactor"}));
  group(value<double>(verb, "--learning-rate", "Learning rate without a schedule (default 1e-5)", "X",
                      [](TrainConfig& c, double v) {
                        c.options.learning_rate = v;
                        c.options.schedule = {};  // a schedule of the file would hide what was typed
                      }))
      ->check(number_between(0, 1e6));
  group(value<string>(
      verb, "--lr-schedule", "cosine_decay:RATE,STEPS[,END], linear_schedule:RATE,END,STEPS, ... as mlx's arguments",
      "NAME:ARGS", [](TrainConfig& c, const string& v) { c.options.schedule = schedule_from(v, c.options.schedule); }));
  group(value<int>(verb, "--warmup", "Updates in which the schedule's rate is reached (default 0)", "N",
                   [](TrainConfig& c, int v) { c.options.schedule.warmup = v; }))
      ->check(integer_between(0, kMost));
  group(value<double>(verb, "--warmup-init", "Rate at which the warm-up begins (default 0)", "X",
                      [](TrainConfig& c, double v) { c.options.schedule.warmup_init = v; }))
      ->check(number_between(0, 1e6));
  group(value<float>(verb, "--weight-decay", "Of adamw, muon, sgd and adafactor", "X", [](TrainConfig& c, float v) {
    optimizer(c).weight_decay = v;
  }))->check(number_between(0, 1e6));
  group(toggle(verb, "--bias-correction", "Of adam and adamw; off by default, as in mlx",
               [](TrainConfig& c, bool v) { optimizer(c).bias_correction = v; }));
  group(value<float>(verb, "--b-rate-ratio", "LoRA+: B learns at this many times the rate (default 1)", "X",
                     [](TrainConfig& c, float v) { c.options.lora.b_rate_ratio = v; }))
      ->check(number_between(0, 1e6));
  group(value<float>(verb, "--max-grad-norm", "Clip the norm of all gradients together; 0: never (default 0)", "X",
                     [](TrainConfig& c, float v) { c.options.max_grad_norm = v; }))
      ->check(number_between(0, 1e30));
  group(value<int>(verb, "--iters", "Batches to learn from (default 1000)", "N", [](TrainConfig& c, int v) {
    c.options.iters = v;
  }))->check(integer_between(1, kMost));
  group(value<int>(verb, "--grad-accumulation-steps", "Batches of one update, weighted by their tokens (default 1)",
                   "N", [](TrainConfig& c, int v) { c.options.grad_accumulation_steps = v; }))
      ->check(integer_between(1, kMost));
  group(toggle(verb, "--grad-checkpoint", "Keep one activation of a layer and compute the others twice",
               [](TrainConfig& c, bool v) { c.options.grad_checkpoint = v; }));
  group(value<uint64_t>(verb, "--seed", "Of factors, order and dropout (default 0)", "N",
                        [](TrainConfig& c, uint64_t v) { c.options.seed = v; }));
}

void TrainFlags::add_cadence(Parser& verb) {
  const auto group = [](Option* option) { return option->group("Cadence"); };
  const auto count = [&](const char* names, const char* help, int low, int TrainOptions::*member) {
    group(value<int>(verb, names, help, "N", [member](TrainConfig& c, int v) {
      c.options.*member = v;
    }))->check(integer_between(low, kMost));
  };
  count("--val-batches", "Batches of a validation; -1: all (default 25)", -1, &TrainOptions::val_batches);
  count("--steps-per-report", "Iterations between reports (default 10)", 1, &TrainOptions::steps_per_report);
  count("--steps-per-eval", "Iterations between validations (default 200)", 1, &TrainOptions::steps_per_eval);
  count("--save-every", "Iterations between saves (default 100)", 1, &TrainOptions::save_every);
  count("--keep-checkpoints", "Checkpoints to go on from that are kept; 0: none (default 2)", 0,
        &TrainOptions::keep_checkpoints);
  count("--early-stopping", "Stop after so many validations without a better loss; 0: never (default 0)", 0,
        &TrainOptions::early_stopping);
  group(toggle(verb, "--test", "Measure the loss on test.jsonl afterwards; without --train, of --adapter-path alone",
               [](TrainConfig& c, bool v) { c.options.test = v; }));
  count("--test-batches", "Batches of the test; -1: all (default 500)", -1, &TrainOptions::test_batches);
  group(value<float>(verb, "--max-loss", "Stop with an error above this loss; 0: 20 + 2 ln(vocabulary) (default 0)",
                     "X", [](TrainConfig& c, float v) { c.options.max_loss = v; }))
      ->check(number_between(0, 1e30));
}

void TrainFlags::add_output(Parser& verb) {
  const auto group = [](Option* option) { return option->group("Results"); };
  using std::string;
  group(value<string>(verb, "--adapter-path", "Directory of the adapter and everything about it (default adapters)",
                      "DIR", [](TrainConfig& c, const string& v) { c.options.adapter_path = v; }));
  group(value<string>(verb, "--format", "Of the adapter: mlx or peft (default mlx)", "FORMAT",
                      [](TrainConfig& c, const string& v) {
                        c.options.format = v == "peft" ? AdapterFormat::peft : AdapterFormat::mlx;
                      }))
      ->check(one_of({"mlx", "peft"}));
  group(toggle(verb, "--resume", "Go on from the newest checkpoint in --adapter-path, bit for bit",
               [](TrainConfig& c, bool v) { c.options.resume = v; }));
  group(toggle(verb, "--overwrite", "Replace an adapter and checkpoints that lie in --adapter-path, whoever made them",
               [](TrainConfig& c, bool v) { c.options.overwrite = v; }));
  group(toggle(verb, "--no-save-best", "Keep no copy of the adapter with the lowest validation loss",
               [](TrainConfig& c, bool v) { c.options.save_best = !v; }));
  group(toggle(verb, "--no-verify-base", "Do not hash the base's weights before and after",
               [](TrainConfig& c, bool v) { c.options.verify_base = !v; }));
  group(value<std::vector<string>>(verb, "--sample-prompt", "A prompt to answer with each validation; repeatable",
                                   "TEXT",
                                   [](TrainConfig& c, const std::vector<string>& v) { c.options.sample_prompts = v; }))
      ->allow_extra_args(false);
  group(value<int>(verb, "--sample-tokens", "Tokens of such an answer (default 64)", "N", [](TrainConfig& c, int v) {
    c.options.sample_tokens = v;
  }))->check(integer_between(1, kMost));
}

void TrainFlags::add_report(Parser& verb) {
  value<int>(verb, "--report-samples",
             "Texts to draw with the adapter and without it when it is trained; 0: none (default 4)", "N",
             [](TrainConfig& c, int v) { c.options.report_samples = v; })
      ->check(integer_between(0, kMost))
      ->group("Results");
}

void TrainFlags::add_without_effect(Parser& verb) {
  using std::string;
  const auto noted = [this, &verb](const char* names, const char* note) {
    value<string>(verb, names, "Accepted for mlx_lm.lora's sake; has no effect", "X",
                  [note](TrainConfig& c, const string&) { c.notes.emplace_back(note); })
        ->group("Other");
  };
  noted("--report-to", "--report-to: no service is reported to; metrics.jsonl and report.html hold it all");
  noted("--project-name", "--project-name: no service is reported to");
  noted("--clear-cache-threshold", "--clear-cache-threshold: there is no such cache");
  toggle(verb, "--trust-remote-code", "Accepted for mlx_lm.lora's sake; no code is ever run",
         [](TrainConfig& c, bool v) {
           if (v) c.notes.emplace_back("--trust-remote-code: no code is ever run");
         })
      ->group("Other");
}

void TrainFlags::add_to(Parser& verb) {
  verb.add_option("-c,--config", file_, "A YAML file of mlx_lm.lora; flags win over it")->option_text("FILE");
  add_data(verb);
  add_adapter(verb);
  add_learning(verb);
  add_cadence(verb);
  add_output(verb);
  add_report(verb);
  add_without_effect(verb);
  iters_ = verb.get_option("--iters");
  verb.get_option("--learning-rate")->excludes(verb.get_option("--lr-schedule"));
  effects_ = {{verb.get_option("--sample-tokens"), "--sample-prompt",
               [](const TrainConfig& c) { return !c.options.sample_prompts.empty(); }},
              {verb.get_option("--test-batches"), "--test", [](const TrainConfig& c) { return c.options.test; }},
              {verb.get_option("--warmup-init"), "--warmup",
               [](const TrainConfig& c) { return c.options.schedule.warmup > 0; }}};
}

TrainConfig TrainFlags::config() const {
  TrainConfig config;
  if (!file_.empty()) read_train_config(file_, config);
  for (const auto& apply : apply_) apply(config);
  for (const Effect& effect : effects_) {
    if (effect.option->typed() && !effect.has(config))
      throw UsageError(effect.option->name() + " has no effect without " + effect.needed);
  }
  if (!config.train && !config.options.test) config.train = true;
  if (!config.train && iters_->typed())
    config.notes.emplace_back("--iters: --test without --train measures the adapter that is there and trains nothing");
  if (config.data.directory.empty())
    throw UsageError("no data given: use --data DIR, or 'data' in the file of --config");
  const ScheduleOptions& schedule = config.options.schedule;
  if (schedule.name.empty() && schedule.warmup > 0)
    throw UsageError("--warmup leads to a schedule's first rate: it needs --lr-schedule, or 'lr_schedule' in the file");
  return config;
}

}  // namespace bumblebee::cli
