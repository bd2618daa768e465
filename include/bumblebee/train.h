// Training an adapter on a loaded model, whose weights are never touched. The flags, defaults and meanings of
// mlx_lm.lora, and a few of our own; docs/training.md says what each does and where ours differ.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bumblebee/adapter.h"
#include "bumblebee/model.h"
#include "bumblebee/tokenizer.h"

namespace bumblebee {

/// Rows to train on. Files of `directory` (train.jsonl, valid.jsonl, test.jsonl), or rows in memory, one JSON object
/// each, in their place. Formats, found from the first row in this order: completions, chat (with or without tools),
/// text.
struct TrainData {
  std::filesystem::path directory = {};                        // empty: only the rows below
  std::vector<std::string> train = {}, valid = {}, test = {};  // JSON; a list that is not empty replaces its file
  std::string prompt_feature = "prompt";                       // names of the keys, per format
  std::string completion_feature = "completion";
  std::string chat_feature = "messages";
  std::string text_feature = "text";
  bool mask_prompt = false;  // only the last message, or the completion, is learned
};

enum class FineTune : uint8_t { lora, dora };

/// What is trained: factors A [rank, in], B [out, rank] of every chosen module, y = W x + scale·B(A drop(x)).
struct LoraOptions {
  FineTune type = FineTune::lora;
  int rank = 8;
  /// Multiplies B(A x); with `rslora` it is alpha, and alpha/√rank multiplies.
  float scale = 20;
  bool rslora = false;
  float dropout = 0;    // of x before A, [0, 1)
  int num_layers = 16;  // counted from the last layer; 0 and -1: all. More than the model has is an error
  /// Paths inside a layer ("self_attn.q_proj") or whole paths ("lm_head"). Empty: every linear of the layers.
  std::vector<std::string> keys = {};
  float b_rate_ratio = 1;  // LoRA+: B's learning rate is this many times A's
};

enum class OptimizerKind : uint8_t { adam, adamw, muon, sgd, adafactor };

/// Settings of mlx.optimizers; those that the chosen kind does not have are refused when they are set. Empty: its own
/// default, which stands beside it.
struct OptimizerOptions {
  OptimizerKind kind = OptimizerKind::adam;
  std::optional<std::pair<float, float>> betas = {};         // adam, adamw: 0.9, 0.999
  std::optional<float> eps = {};                             // adam, adamw: 1e-8
  std::optional<bool> bias_correction = {};                  // adam, adamw: false, as mlx has it
  std::optional<float> weight_decay = {};                    // adamw, muon: 0.01; sgd, adafactor: 0
  std::optional<float> momentum = {};                        // muon: 0.95; sgd: 0
  std::optional<float> dampening = {};                       // sgd: 0
  std::optional<bool> nesterov = {};                         // muon: true; sgd: false
  std::optional<int> ns_steps = {};                          // muon: 5
  std::optional<std::pair<float, float>> factored_eps = {};  // adafactor's eps: 1e-30, 1e-3
  std::optional<float> clip_threshold = {};                  // adafactor: 1
  std::optional<float> decay_rate = {};                      // adafactor: -0.8
  std::optional<float> beta_1 = {};                          // adafactor: none, no first moment
  std::optional<bool> scale_parameter = {};                  // adafactor: true
  std::optional<bool> relative_step = {};                    // adafactor: true; learning_rate is not used then
  std::optional<bool> warmup_init = {};                      // adafactor: false
};

/// mlx-lm's lr_schedule. Steps are updates of the optimizer, counted from 0.
struct ScheduleOptions {
  std::string name = {};  // cosine_decay, exponential_decay, step_decay, linear_schedule; empty: constant learning_rate
  std::vector<double> arguments = {};
  int warmup = 0;  // updates from warmup_init to arguments[0], linear
  double warmup_init = 0;
};

enum class AdapterFormat : uint8_t { mlx, peft };

/// Before the first step.
struct TrainPlan {
  uint64_t trainable_parameters = 0, parameters = 0;
  int modules = 0, layers = 0;  // adapted
  int64_t rows = 0, valid_rows = 0, test_rows = 0;
  int64_t truncated_rows = 0;               // of all splits: longer than max_seq_length
  int64_t tokens = 0;                       // of one epoch, as batched
  int64_t batches = 0;                      // of one epoch
  int longest_row = 0;                      // tokens, before truncation
  int first_iteration = 1;                  // after a resume, the next one
  int iterations = 0;                       // the last one
  std::vector<std::string> on_top_of = {};  // "name:weight" of each frozen adapter underneath
  uint64_t memory_bytes = 0;                // estimate of the peak beyond the loaded model
  double seconds = 0;  // estimate of the run from here, by two batches measured; 0: not measured, too short a run
};

/// After every iteration (a batch).
struct TrainProgress {
  int iteration = 0, iterations = 0;
  int updates = 0;     // of the optimizer
  double loss = 0;     // mean of this batch's scored tokens
  int64_t tokens = 0;  // scored, of this batch
  int64_t rows = 0;    // of activations, of this batch
  double seconds = 0;  // of this iteration
  double eta_s = 0;    // of what is left, from the iterations so far
};

/// Every steps_per_report iterations and at the last.
struct TrainReport {
  int iteration = 0;
  double train_loss = 0;     // mean of the tokens since the last report
  double learning_rate = 0;  // of the last update
  double gradient_norm = 0;  // of the last update, before clipping
  double iterations_per_second = 0;
  double tokens_per_second = 0;  // scored tokens
  int64_t trained_tokens = 0;    // scored, since the beginning
  uint64_t peak_memory = 0;      // of the process, bytes
};

struct ValidationReport {
  int iteration = 0;  // iterations done: 0 before the first
  double loss = 0;
  int64_t tokens = 0;
  double seconds = 0;
  bool best = false;  // so far
};

struct TrainSample {
  int iteration = 0;
  std::string prompt = {}, text = {};
};

/// The longest run of words that a text shares with the texts that were learned; letter case and punctuation aside.
struct CopiedText {
  std::string text = {};  // the run, as the text has it; empty: none
  int words = 0, tokens = 0;
  int64_t characters = 0;
  int of_words = 0;        // that the whole text has
  std::string where = {};  // the row that has it: "train.jsonl:12"
};

/// After training: a prompt, what is written without the new adapter and with it, and what of it is copied.
struct TrainComparison {
  std::string prompt = {};
  std::string without = {}, with = {};
  CopiedText copied_without = {}, copied_with = {};
};

struct TrainSaved {
  int iteration = 0;
  std::filesystem::path path = {};
  enum class What : uint8_t { adapter, best, checkpoint } what = What::adapter;
};

/// Called on the training thread. What they throw ends the training.
struct TrainCallbacks {
  std::function<void(const TrainPlan& plan)> started;
  /// False stops: a checkpoint is saved, and train_adapter returns with `cancelled`.
  std::function<bool(const TrainProgress& progress)> progress;
  std::function<void(const TrainReport& report)> report;
  std::function<void(const ValidationReport& report)> validated;
  std::function<bool(int64_t done, int64_t total)> validating;  // batches; false: as for progress
  std::function<bool(int64_t done, int64_t total)> comparing;   // texts written after training; false: no more of them
  std::function<void(const TrainSample& sample)> sampled;
  std::function<void(const TrainSaved& saved)> saved;
  std::function<void(const std::string& text)> note;  // for people: what was truncated, rounded, resumed
};

struct TrainOptions {
  LoraOptions lora;
  OptimizerOptions optimizer;
  double learning_rate = 1e-5;
  ScheduleOptions schedule;
  float max_grad_norm = 0;  // of all gradients together; 0: no clipping

  int batch_size = 4;
  int iters = 1000;                 // batches
  int grad_accumulation_steps = 1;  // batches per update, weighted by their scored tokens
  int max_seq_length = 2048;        // longer rows are truncated, and reported
  bool packed = false;              // rows packed to max_seq_length with exact borders, in place of batches by length
  bool grad_checkpoint = false;     // keeps one activation per layer and computes the others twice
  uint64_t seed = 0;

  int val_batches = 25;  // -1: all
  int steps_per_report = 10;
  int steps_per_eval = 200;
  int save_every = 100;
  bool test = false;       // after training, on the test split
  int test_batches = 500;  // -1: all

  std::filesystem::path adapter_path = "adapters";
  AdapterFormat format = AdapterFormat::mlx;
  std::filesystem::path resume_adapter_file = {};  // weights to begin with: an adapter's directory or file of mlx-lm
  bool resume = false;     // goes on from the newest checkpoint in adapter_path, bit for bit; at the start if none
  bool overwrite = false;  // removes adapters and checkpoints from adapter_path, whoever made them; an error otherwise
  int keep_checkpoints = 2;  // the newest; 0: writes none
  bool save_best = true;     // adapter_path/best: lowest validation loss
  int early_stopping = 0;    // stops after so many validations in a row without a better loss; 0: never
  float max_loss = 0;        // stops with an error when a batch's loss is above; 0: 20 + 2·ln(vocabulary)
  bool verify_base = true;   // hashes the base's weights before and after

  std::vector<WeightedAdapter> on_top_of = {};   // frozen adapters under the new one
  std::vector<std::string> sample_prompts = {};  // answered greedily with each validation
  int sample_tokens = 64;
  /// Texts that are drawn with the best adapter and without it when training is over, with temperature 0.8, to the
  /// sample_prompts or to what precedes the validation rows. 0: none.
  int report_samples = 4;
  std::string base_model = {};  // named in the adapter's config

  TrainCallbacks callbacks;
};

enum class TrainEnd : uint8_t { finished, early_stopped, cancelled };
const char* to_string(TrainEnd end);  // "finished", "early_stopped", "cancelled"

struct TrainResult {
  TrainEnd end = TrainEnd::finished;
  int iterations = 0, updates = 0;  // since the beginning, also of the runs that were resumed
  int64_t trained_tokens = 0;
  double train_loss = 0;  // of the last report
  // Nats per token. The first two: before any step, which is without the adapter unless resume_adapter_file began it.
  std::optional<double> first_val_loss = {}, first_test_loss = {};
  std::optional<double> val_loss = {}, best_val_loss = {}, test_loss = {};
  int best_iteration = 0;
  std::filesystem::path adapter = {};  // directory of the last adapter
  std::filesystem::path best = {};     // of the best; empty: none was saved
  std::string verdict = {};            // for people: did validation get better, where did it turn, what to change
  std::string adapter_id = {};         // Adapter::info().id of the last
  std::string base_hash = {};          // of the base's weights, the same before and after; empty: not verified
  double seconds = 0;                  // of this run
  std::vector<TrainComparison> comparisons = {};
  CopiedText held_out = {};  // the longest run that some rows of the validation share with those that were learned:
                             // what two texts of one author have in common anyhow
};

/// Trains an adapter and saves it. Throws Error: `bad_request` for options that mean nothing, `bad_file` and
/// `bad_config` for data (with file and line), for checkpoints that are broken and for a loss that is not a number or
/// explodes (naming iteration and rows), `unsupported` for what is not implemented by name.
TrainResult train_adapter(const Model& model, const Tokenizer& tokenizer, const TrainData& data,
                          const TrainOptions& options);

/// The checks and the plan of train_adapter() without a step. `seconds` is measured with two batches when `measure`.
TrainPlan plan_training(const Model& model, const Tokenizer& tokenizer, const TrainData& data,
                        const TrainOptions& options, bool measure = false);

/// Mean loss over the test split, in nats per token, with the adapters composed; perplexity is its exponential. Uses
/// batch_size, max_seq_length and test_batches.
double test_loss(const Model& model, const Tokenizer& tokenizer, const TrainData& data, const TrainOptions& options,
                 const std::vector<WeightedAdapter>& adapters = {});

}  // namespace bumblebee
