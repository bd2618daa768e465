// Where factors begin, how they travel, and how they become an adapter.
#include "train/lora_params.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/rng.h"
#include "lora/bind_to_base.h"
#include "lora/expert_paths.h"
#include "lora/targets.h"
#include "train/select_modules.h"

namespace bumblebee::train {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::bad_request, "train", what); }

void check(const LoraOptions& o) {
  if (o.rank < 1 || o.rank > 4096) refuse(cat("rank: expected 1 to 4096, got ", o.rank));
  if (!std::isfinite(o.scale) || o.scale == 0) refuse(cat("scale: expected a finite number but 0, got ", o.scale));
  if (!(o.dropout >= 0 && o.dropout < 1)) refuse(cat("dropout: expected [0, 1), got ", o.dropout));
  if (!(o.b_rate_ratio > 0) || !std::isfinite(o.b_rate_ratio))
    refuse(cat("b_rate_ratio: expected a positive number, got ", o.b_rate_ratio));
}

/// Tells what the counters of Philox are for, so that streams of one seed never meet.
constexpr uint64_t kInitStream = uint64_t{1} << 56;

}  // namespace

LoraParams::LoraParams(Backend& backend, const nn::Model& model, const LoraOptions& options, uint64_t seed)
    : backend_(backend),
      grad_(require_grad_ops(backend)),
      model_(model),
      options_(options),
      place_(model.target_modules().size(), -1) {
  require_trainable(model);
  check(options);
  scale_ = options.rslora ? options.scale / std::sqrt(float(options.rank)) : options.scale;
  first_layer_ = model.dims().layers;
  for (const int site : select_modules(model, options)) add_module(site, seed);
  refresh();
  check_factors("train");
}

void LoraParams::add_module(int number, uint64_t seed) {
  const nn::TargetModule& module = model_.target_modules()[size_t(number)];
  first_layer_ = std::min(first_layer_, lora::layer_of(module.name));
  TrainedModule trained;
  trained.site = number;
  trained.first = int(parameters_.size());
  const auto add = [&](const char* leaf, std::span<const float> values, int rows, int cols) -> Parameter& {
    return parameters_.emplace_back(make_parameter(backend_, module.name + leaf, values, rows, cols));
  };
  const double bound = 1 / std::sqrt(double(module.in));
  const bool stack = module.kind == nn::TargetModule::Kind::experts;
  if (stack) trained.experts = module.experts;
  const int rank_rows = trained.experts * options_.rank, out_rows = trained.experts * module.out;
  std::vector<float> values(size_t(rank_rows) * size_t(module.in));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = float((2 * uniform01(seed, i, kInitStream | uint64_t(number)) - 1) * bound);
  Parameter& a = add(".lora_a", values, rank_rows, module.in);
  a.transposed = !stack;
  a.experts = trained.experts;
  trained.a = a.value;
  trained.da = a.gradient;
  values.assign(size_t(out_rows) * size_t(options_.rank), 0);
  Parameter& b = add(".lora_b", values, out_rows, options_.rank);
  b.transposed = !stack;
  b.experts = trained.experts;
  b.rate_ratio = options_.b_rate_ratio;
  trained.b = b.value;
  trained.db = b.gradient;
  if (options_.type == FineTune::dora) {
    values.resize(size_t(module.out));
    backend_.read(lengths(trained), values);
    const Parameter& m = add(".m", values, 1, module.out);
    trained.m = m.value;
    trained.dm = m.gradient;
    trained.dora_scale = backend_.upload(values, 1, module.out);
  }
  place_[size_t(number)] = int(modules_.size());
  modules_.push_back(std::move(trained));
}

Tensor LoraParams::lengths(const TrainedModule& module) const {
  return grad_.row_lengths(model_.target_weights()[size_t(module.site)], module.a, module.b, scale_);
}

void LoraParams::refresh() {
  std::vector<Tensor> factors, by;
  std::vector<AxpbyTerm> magnitudes;
  for (TrainedModule& module : modules_) {
    if (!module.m) continue;
    by.push_back(lengths(module));
    factors.push_back(module.dora_scale);  // which outlives the step, and so is not made in it
    magnitudes.push_back({.y = module.dora_scale, .x = module.m, .b = 1});
  }
  grad_.clear(factors);
  grad_.axpby(magnitudes);
  grad_.divide(factors, by);
}

void LoraParams::check_factors(const std::string& where) const {
  for (const TrainedModule& module : modules_) {
    if (!module.m) continue;
    std::vector<float> values(size_t(module.dora_scale.cols()));
    backend_.read(module.dora_scale, values);
    for (size_t i = 0; i < values.size(); ++i) {
      // The gradient of m is divided by m.
      if (std::isfinite(values[i]) && values[i] != 0) continue;
      throw Error(
          ErrorCode::bad_file, where,
          cat("module '", model_.target_modules()[size_t(module.site)].name, "': DoRA divides the magnitude of row ", i,
              " by its length in W + scale·B A: expected a finite quotient but 0, got ", values[i]));
    }
  }
}

void LoraParams::write(std::span<const std::vector<float>> values) {
  BB_CHECK(values.size() == parameters_.size());
  for (size_t i = 0; i < values.size(); ++i) BB_CHECK(values[i].size() == parameters_[i].size(), parameters_[i].name);
  write_values(grad_, values, values_of(parameters_));
  refresh();
}

TrainedModule* LoraParams::find(int site) {
  const int place = site < 0 ? -1 : place_[size_t(site)];
  return place < 0 ? nullptr : &modules_[size_t(place)];
}

std::span<const FrozenTerm> LoraParams::frozen(int site) const {
  const auto found = frozen_.find(site);
  if (hidden_ || found == frozen_.end()) return {};
  return found->second;
}

uint64_t LoraParams::count() const {
  uint64_t count = 0;
  for (const Parameter& p : parameters_) count += p.size();
  return count;
}

void LoraParams::freeze(const lora::BoundAdapter& bound, float weight) {
  const lora::Adapter& adapter = *bound.adapter;
  const auto cannot = [&](const std::string& path, const char* what) {
    throw Error(
        ErrorCode::unsupported, "train",
        cat("adapter '", adapter.name, "', module '", path, "': training on top of ", what, " is not implemented"));
  };
  if (!bound.experts.empty()) cannot(bound.experts.begin()->first, "adapted experts");
  if (!std::isfinite(weight)) refuse(cat("adapter '", adapter.name, "': expected a finite weight, got ", weight));
  for (const auto& [path, from] : bound.modules) {
    const lora::ModuleDelta& change = *from;
    if (change.weight || change.bias) cannot(path, "replaced weights and biases");
    const auto module = std::find_if(model_.target_modules().begin(), model_.target_modules().end(),
                                     [&](const nn::TargetModule& s) { return s.name == path; });
    BB_CHECK(module != model_.target_modules().end(), path);
    if (module->kind != nn::TargetModule::Kind::linear || lora::layer_of(path) < 0)
      cannot(path, "an adapted embedding or head");
    const lora::LowRank& low = *change.low_rank;
    if (!low.magnitude.empty()) cannot(path, "DoRA");
    if (!low.b_bias.empty()) cannot(path, "a bias of B");
    const int number = int(module - model_.target_modules().begin());
    if (options_.type == FineTune::dora && find(number) != nullptr)
      cannot(path, "another adapter of the same module with DoRA");
    frozen_[number].push_back({backend_.upload(low.a.values, low.a.rows, low.a.cols),
                               backend_.upload(low.b.values, low.b.rows, low.b.cols), low.scale * weight});
  }
}

void LoraParams::begin_with(const lora::Adapter& given) {
  const bool single = lora::has_single_experts(given);
  const lora::Adapter stacked = single ? lora::stack_experts(given) : lora::Adapter();
  const lora::Adapter& adapter = single ? stacked : given;
  const std::string& where = adapter.where.empty() ? adapter.name : adapter.where;
  const auto differs = [&](const std::string& what) { throw Error(ErrorCode::bad_request, where, what); };
  if (adapter.modules.size() != modules_.size())
    differs(cat("modules: expected the ", modules_.size(), " that are trained, got ", adapter.modules.size()));
  std::map<std::string, const lora::ModuleDelta*> by_name;  // mlx-lm's are those of a model that has ours as a part
  for (const auto& [path, change] : adapter.modules) by_name.emplace(lora::plain_path(path), &change);
  std::vector<std::vector<float>> values;
  for (const TrainedModule& module : modules_) {
    const std::string& path = model_.target_modules()[size_t(module.site)].name;
    const auto found = by_name.find(path);
    if (found == by_name.end() || !found->second->low_rank) differs(cat("factors of '", path, "' are missing"));
    const lora::LowRank& low = *found->second->low_rank;
    const Tensor &a = module.a, &b = module.b;
    if (std::max(low.experts, 1) != module.experts || low.a.rows != a.rows() || low.a.cols != a.cols() ||
        low.b.rows != b.rows() || low.b.cols != b.cols())
      differs(cat("'", path, "': expected rank ", b.cols(), " and sizes [", b.rows(), ", ", a.cols(), "], got rank ",
                  low.rank(), " and [", low.b.rows, ", ", low.a.cols, "]"));
    if (low.scale != scale_) differs(cat("'", path, "': expected a scale of ", scale_, ", got ", low.scale));
    if (low.magnitude.empty() != !module.m || !low.b_bias.empty())
      differs(cat("'", path, "': expected ", module.m ? "DoRA" : "LoRA", " without a bias of B"));
    values.push_back(low.a.values);
    values.push_back(low.b.values);
    if (module.m) values.push_back(low.magnitude);
  }
  write(values);
  check_factors(where);
}

lora::Adapter LoraParams::adapter(const std::string& name, const std::string& base) const {
  lora::Adapter result;
  result.name = name;
  result.base = base;
  result.kind = options_.type == FineTune::dora ? lora::Kind::dora : lora::Kind::lora;
  std::vector<std::vector<float>> values = read_values(grad_, values_of(parameters_));
  for (const TrainedModule& module : modules_) {
    const size_t at = size_t(module.first);
    lora::LowRank low;
    low.a = {module.a.rows(), module.a.cols(), std::move(values[at])};
    low.b = {module.b.rows(), module.b.cols(), std::move(values[at + 1])};
    low.scale = scale_;
    if (model_.target_modules()[size_t(module.site)].kind == nn::TargetModule::Kind::experts)
      low.experts = module.experts;
    if (module.m) low.magnitude = std::move(values[at + 2]);
    result.modules[model_.target_modules()[size_t(module.site)].name].low_rank = std::move(low);
  }
  return result;
}

}  // namespace bumblebee::train
