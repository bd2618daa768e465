// Keys are matched as mlx-lm does: inside the chosen layers, and as whole paths anywhere. A key that matches nothing is
// an error here: it would train less than was asked for.
#include "train/select_sites.h"

#include <algorithm>
#include <set>
#include <string>

#include "base/error.h"
#include "lora/targets.h"

namespace bumblebee::train {
namespace {

[[noreturn]] void refuse_key(const nn::Model& model, const std::string& key) {
  std::set<std::string> known;
  for (const nn::Site& site : model.sites()) {
    if (site.name == key && lora::layer_of(site.name) < 0)
      throw Error(ErrorCode::unsupported, "train", cat("keys: training '", key, "' is not implemented"));
    if (site.kind == nn::Site::Kind::linear && lora::layer_of(site.name) >= 0)
      known.emplace(lora::inside_layer(site.name));
  }
  if (key == "lm_head") throw Error(ErrorCode::unsupported, "train", "keys: training 'lm_head' is not implemented");
  std::string names;
  for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
  throw Error(ErrorCode::bad_request, "train", cat("keys: expected linear modules (", names, "), got '", key, "'"));
}

}  // namespace

std::vector<int> select_sites(const nn::Model& model, const LoraOptions& options) {
  const int layers = model.dims().layers;
  if (options.num_layers < -1 || options.num_layers > layers) {
    throw Error(
        ErrorCode::bad_request, "train",
        cat("num_layers: expected at most ", layers, " (the model's layers; -1 for all), got ", options.num_layers));
  }
  const int first = options.num_layers > 0 ? layers - options.num_layers : 0;
  std::set<std::string> unused(options.keys.begin(), options.keys.end());
  std::vector<int> chosen;
  for (size_t i = 0; i < model.sites().size(); ++i) {
    const nn::Site& site = model.sites()[i];
    const int layer = lora::layer_of(site.name);
    if (site.kind != nn::Site::Kind::linear || layer < 0) continue;
    bool wanted = options.keys.empty() && layer >= first;
    for (const std::string& key : options.keys) {
      const bool here = key == site.name || (layer >= first && key == lora::inside_layer(site.name));
      if (here) unused.erase(key);
      wanted = wanted || here;
    }
    if (wanted) chosen.push_back(int(i));
  }
  if (!unused.empty()) refuse_key(model, *unused.begin());
  if (chosen.empty()) throw Error(ErrorCode::unsupported, "train", "the model has no linear module in its layers");
  return chosen;
}

}  // namespace bumblebee::train
