// Keys and their values; nothing is computed.
#include "train/settings.h"

#include <nlohmann/json.hpp>

#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

template <class T>
void put(Json& object, const char* key, const std::optional<T>& value) {
  if (value) object[key] = *value;
}

/// The settings of the chosen optimizer that are not its defaults, under mlx's names.
Json optimizer_settings(const OptimizerOptions& o) {
  Json out = Json::object();
  if (o.betas) out["betas"] = {o.betas->first, o.betas->second};
  put(out, "eps", o.eps);
  if (o.factored_eps) out["eps"] = {o.factored_eps->first, o.factored_eps->second};
  put(out, "bias_correction", o.bias_correction);
  put(out, "weight_decay", o.weight_decay);
  put(out, "momentum", o.momentum);
  put(out, "dampening", o.dampening);
  put(out, "nesterov", o.nesterov);
  put(out, "ns_steps", o.ns_steps);
  put(out, "clip_threshold", o.clip_threshold);
  put(out, "decay_rate", o.decay_rate);
  put(out, "beta_1", o.beta_1);
  put(out, "scale_parameter", o.scale_parameter);
  put(out, "relative_step", o.relative_step);
  put(out, "warmup_init", o.warmup_init);
  return out;
}

Json path_or_null(const std::filesystem::path& path) { return path.empty() ? Json(nullptr) : Json(path.string()); }

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

}  // namespace

Json mlx_arguments(const TrainOptions& o, const TrainData& data) {
  Json optimizers = Json::object();
  for (const OptimizerKind kind :
       {OptimizerKind::adam, OptimizerKind::adamw, OptimizerKind::muon, OptimizerKind::sgd, OptimizerKind::adafactor})
    optimizers[std::string(to_string(kind))] =
        kind == o.optimizer.kind ? optimizer_settings(o.optimizer) : Json::object();
  Json schedule = nullptr;
  if (!o.schedule.name.empty()) {
    schedule = {{"name", o.schedule.name},
                {"arguments", o.schedule.arguments},
                {"warmup", o.schedule.warmup},
                {"warmup_init", o.schedule.warmup_init}};
  }
  return {{"train", true},
          {"optimizer", std::string(to_string(o.optimizer.kind))},
          {"optimizer_config", optimizers},
          {"data", data.directory.string()},
          {"prompt_feature", data.prompt_feature},
          {"completion_feature", data.completion_feature},
          {"chat_feature", data.chat_feature},
          {"text_feature", data.text_feature},
          {"mask_prompt", data.mask_prompt},
          {"seed", o.seed},
          {"batch_size", o.batch_size},
          {"iters", o.iters},
          {"grad_accumulation_steps", o.grad_accumulation_steps},
          {"max_seq_length", o.max_seq_length},
          {"grad_checkpoint", o.grad_checkpoint},
          {"learning_rate", o.learning_rate},
          {"lr_schedule", schedule},
          {"val_batches", o.val_batches},
          {"steps_per_report", o.steps_per_report},
          {"steps_per_eval", o.steps_per_eval},
          {"save_every", o.save_every},
          {"test", o.test},
          {"test_batches", o.test_batches},
          {"adapter_path", o.adapter_path.string()},
          {"resume_adapter_file", path_or_null(o.resume_adapter_file)},
          // what this program does not have
          {"config", nullptr},
          {"clear_cache_threshold", 0},
          {"report_to", nullptr},
          {"project_name", nullptr},
          {"trust_remote_code", false}};
}

Json training_record(const Origin& origin, const RunState& state) {
  Json settings = origin.identity;
  const auto taken = [&settings](const char* key) {
    Json value = settings.value(key, Json(nullptr));
    settings.erase(key);
    return value;
  };
  const TrainPlan& plan = origin.plan;
  const Json base = taken("base"), train = taken("data"), valid = taken("valid_data");
  taken("on_top_of");
  settings["iters"] = origin.options.iters;
  settings["mask_prompt"] = origin.data.mask_prompt;
  settings["resume_adapter_file"] = path_or_null(origin.options.resume_adapter_file);
  return {{"program", origin.program},
          {"base", {{"model", origin.options.base_model}, {"hash", base}}},
          {"data",
           {{"directory", origin.data.directory.string()},
            {"train", {{"rows", plan.rows}, {"hash", train}}},
            {"valid", {{"rows", plan.valid_rows}, {"hash", valid}}}}},
          {"on_top_of", plan.on_top_of},
          {"settings", settings},
          {"metrics",
           {{"iterations", state.iteration},
            {"updates", state.updates},
            {"trained_tokens", state.trained_tokens},
            {"train_loss", state.train_loss},
            {"first_val_loss", or_null(state.first_val_loss)},
            {"val_loss", or_null(state.val_loss)},
            {"best_val_loss", or_null(state.best_val_loss)},
            {"best_iteration", state.best_iteration}}}};
}

}  // namespace bumblebee::train
