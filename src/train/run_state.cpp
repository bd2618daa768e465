// To JSON and back. Doubles are written so that they read back to the same bits.
#include "train/run_state.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

template <class T>
Json optional(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json optional(const std::optional<std::pair<float, float>>& value) {
  return value ? Json{value->first, value->second} : Json(nullptr);
}

std::optional<double> number(const Json& json, const char* key, std::string_view where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return std::nullopt;
  return number_or(json, key, where, 0);
}

constexpr int64_t kMost = int64_t{1} << 62;

}  // namespace

Json to_json(const RunState& s) {
  return {{"iteration", s.iteration},
          {"updates", s.updates},
          {"trained_tokens", s.trained_tokens},
          {"accumulated", s.accumulated},
          {"epoch", s.cursor.epoch},
          {"batch", s.cursor.batch},
          {"window_loss", s.window_loss},
          {"window_tokens", s.window_tokens},
          {"learning_rate", s.learning_rate},
          {"gradient_norm", s.gradient_norm},
          {"train_loss", s.train_loss},
          {"first_val_loss", optional(s.first_val_loss)},
          {"first_test_loss", optional(s.first_test_loss)},
          {"validated", s.validated},
          {"val_loss", optional(s.val_loss)},
          {"best_val_loss", optional(s.best_val_loss)},
          {"best_iteration", s.best_iteration},
          {"validations_without_gain", s.validations_without_gain}};
}

RunState read_run_state(const Json& json, std::string_view where) {
  constexpr int kInt = std::numeric_limits<int>::max();
  RunState s;
  s.iteration = int(require_int(json, "iteration", where, 0, kInt));
  s.updates = int(require_int(json, "updates", where, 0, kInt));
  s.trained_tokens = require_int(json, "trained_tokens", where, 0, kMost);
  s.accumulated = require_int(json, "accumulated", where, 0, kMost);
  s.cursor = {uint64_t(require_int(json, "epoch", where, 0, kMost)),
              uint64_t(require_int(json, "batch", where, 0, kMost))};
  s.window_loss = number_or(json, "window_loss", where, 0);
  s.window_tokens = require_int(json, "window_tokens", where, 0, kMost);
  s.learning_rate = number_or(json, "learning_rate", where, 0);
  s.gradient_norm = number_or(json, "gradient_norm", where, 0);
  s.train_loss = number_or(json, "train_loss", where, 0);
  s.first_val_loss = number(json, "first_val_loss", where);
  s.first_test_loss = number(json, "first_test_loss", where);
  s.validated = int(int_or(json, "validated", where, -1, kInt, -1));
  s.val_loss = number(json, "val_loss", where);
  s.best_val_loss = number(json, "best_val_loss", where);
  s.best_iteration = int(require_int(json, "best_iteration", where, 0, kInt));
  s.validations_without_gain = int(require_int(json, "validations_without_gain", where, 0, kInt));
  return s;
}

Json identity(const TrainOptions& o) {
  const OptimizerOptions& opt = o.optimizer;
  return {{"fine_tune_type", o.lora.type == FineTune::dora ? "dora" : "lora"},
          {"rank", o.lora.rank},
          {"scale", o.lora.scale},
          {"rslora", o.lora.rslora},
          {"dropout", o.lora.dropout},
          {"num_layers", o.lora.num_layers},
          {"keys", o.lora.keys},
          {"b_rate_ratio", o.lora.b_rate_ratio},
          {"optimizer", std::string(to_string(opt.kind))},
          {"betas", optional(opt.betas)},
          {"eps", optional(opt.eps)},
          {"bias_correction", optional(opt.bias_correction)},
          {"weight_decay", optional(opt.weight_decay)},
          {"momentum", optional(opt.momentum)},
          {"dampening", optional(opt.dampening)},
          {"nesterov", optional(opt.nesterov)},
          {"ns_steps", optional(opt.ns_steps)},
          {"factored_eps", optional(opt.factored_eps)},
          {"clip_threshold", optional(opt.clip_threshold)},
          {"decay_rate", optional(opt.decay_rate)},
          {"beta_1", optional(opt.beta_1)},
          {"scale_parameter", optional(opt.scale_parameter)},
          {"relative_step", optional(opt.relative_step)},
          {"warmup_init", optional(opt.warmup_init)},
          {"learning_rate", o.learning_rate},
          {"lr_schedule", o.schedule.name},
          {"lr_schedule.arguments", o.schedule.arguments},
          {"lr_schedule.warmup", o.schedule.warmup},
          {"lr_schedule.warmup_init", o.schedule.warmup_init},
          {"max_grad_norm", o.max_grad_norm},
          {"batch_size", o.batch_size},
          {"grad_accumulation_steps", o.grad_accumulation_steps},
          {"max_seq_length", o.max_seq_length},
          {"packed", o.packed},
          {"seed", o.seed}};
}

void check_identity(const Json& saved, const Json& now, const std::string& where) {
  for (const auto& [key, value] : now.items()) {
    const Json before = saved.is_object() && saved.contains(key) ? saved[key] : Json(nullptr);
    if (before != value) {
      throw Error(ErrorCode::bad_request, where,
                  cat("resume: ", key, ": expected ", brief(before), " as the run began with, got ", brief(value)));
    }
  }
}

}  // namespace bumblebee::train
