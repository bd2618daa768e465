// Keys are matched as mlx-lm does: inside the chosen layers, and as whole paths anywhere. A key that matches nothing is
// an error here: it would train less than was asked for.
#include "train/select_modules.h"

#include <algorithm>
#include <set>
#include <string>

#include "base/error.h"
#include "lora/targets.h"

namespace bumblebee::train {
namespace {

bool is_trainable(const nn::TargetModule& module) {
  using enum nn::TargetModule::Kind;
  return (module.kind == linear || module.kind == experts) && lora::layer_of(module.name) >= 0;
}

[[noreturn]] void refuse_key(const nn::Model& model, const std::string& key) {
  std::set<std::string> known;
  for (const nn::TargetModule& module : model.target_modules()) {
    if (module.name == key && lora::layer_of(module.name) < 0)
      throw Error(ErrorCode::unsupported, "train", cat("keys: training '", key, "' is not implemented"));
    if (is_trainable(module)) known.emplace(lora::inside_layer(module.name));
  }
  if (key == "lm_head") throw Error(ErrorCode::unsupported, "train", "keys: training 'lm_head' is not implemented");
  std::string names;
  for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
  throw Error(ErrorCode::bad_request, "train", cat("keys: expected linear modules (", names, "), got '", key, "'"));
}

}  // namespace

void require_trainable(const nn::Model& model) {
  for (const Operation operation : model.operations()) {
    if (!has_derivative(operation)) {
      throw Error(ErrorCode::unsupported, "train",
                  cat("training of this model is not implemented: no derivative of ", name_of(operation)));
    }
  }
}

std::vector<int> select_modules(const nn::Model& model, const LoraOptions& options) {
  const int layers = model.dims().layers;
  if (options.num_layers < -1 || options.num_layers > layers) {
    throw Error(
        ErrorCode::bad_request, "train",
        cat("num_layers: expected at most ", layers, " (the model's layers; -1 for all), got ", options.num_layers));
  }
  const int first = options.num_layers > 0 ? layers - options.num_layers : 0;
  std::set<std::string> unused(options.keys.begin(), options.keys.end());
  std::vector<int> chosen;
  for (size_t i = 0; i < model.target_modules().size(); ++i) {
    const nn::TargetModule& module = model.target_modules()[i];
    const int layer = lora::layer_of(module.name);
    if (!is_trainable(module)) continue;
    bool wanted = options.keys.empty() && layer >= first;
    for (const std::string& key : options.keys) {
      const bool here = key == module.name || (layer >= first && key == lora::inside_layer(module.name));
      if (here) unused.erase(key);
      wanted = wanted || here;
    }
    if (wanted && module.kind == nn::TargetModule::Kind::experts && options.type == FineTune::dora) {
      throw Error(ErrorCode::unsupported, "train",
                  cat("DoRA of experts is not implemented: expected keys without '", lora::inside_layer(module.name),
                      "', as mlx-lm does"));
    }
    if (wanted) chosen.push_back(int(i));
  }
  if (!unused.empty()) refuse_key(model, *unused.begin());
  if (chosen.empty()) throw Error(ErrorCode::unsupported, "train", "the model has no linear module in its layers");
  return chosen;
}

}  // namespace bumblebee::train
