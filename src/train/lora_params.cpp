// Where factors begin, how they travel, and how they become an adapter.
#include "train/lora_params.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "lora/targets.h"
#include "train/select_sites.h"

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

GradOps& require_grad_ops(Backend& backend) {
  GradOps* grad = backend.grad_ops();
  if (grad == nullptr)
    throw Error(ErrorCode::device, "train", cat("the device '", backend.name(), "' has no derivatives to train with"));
  return *grad;
}

LoraParams::LoraParams(Backend& backend, const nn::Model& model, const LoraOptions& options, uint64_t seed)
    : backend_(backend),
      grad_(require_grad_ops(backend)),
      model_(model),
      options_(options),
      place_(model.sites().size(), -1) {
  check(options);
  scale_ = options.rslora ? options.scale / std::sqrt(float(options.rank)) : options.scale;
  first_layer_ = model.dims().layers;
  for (const int site : select_sites(model, options)) add_site(site, seed);
  upload();
}

void LoraParams::add_site(int number, uint64_t seed) {
  const nn::Site& site = model_.sites()[size_t(number)];
  const size_t rank = size_t(options_.rank), in = size_t(site.in), out = size_t(site.out);
  first_layer_ = std::min(first_layer_, lora::layer_of(site.name));
  TrainedSite trained;
  trained.site = number;
  trained.a = int(parameters_.size());
  Parameter a{.name = site.name + ".lora_a", .rows = options_.rank, .cols = site.in, .turned = true};
  const double bound = 1 / std::sqrt(double(site.in));
  for (size_t i = 0; i < rank * in; ++i)
    a.values.push_back(float((2 * uniform01(seed, i, kInitStream | uint64_t(number)) - 1) * bound));
  parameters_.push_back(std::move(a));
  trained.b = int(parameters_.size());
  parameters_.push_back({.name = site.name + ".lora_b",
                         .rows = site.out,
                         .cols = options_.rank,
                         .turned = true,
                         .rate_ratio = options_.b_rate_ratio,
                         .values = std::vector<float>(out * rank)});
  if (options_.type == FineTune::dora) {
    trained.m = int(parameters_.size());
    Tensor lengths = grad_.row_lengths(model_.site_weights()[size_t(number)], device(parameters_[size_t(trained.a)]),
                                       device(parameters_[size_t(trained.b)]), scale_);
    Parameter m{.name = site.name + ".m", .rows = 1, .cols = site.out, .values = std::vector<float>(out)};
    backend_.read(lengths, m.values);
    parameters_.push_back(std::move(m));
  }
  place_[size_t(number)] = int(sites_.size());
  sites_.push_back(std::move(trained));
  for (Parameter& p : parameters_) p.gradient.resize(p.values.size());
}

Tensor LoraParams::device(const Parameter& p) const { return backend_.upload(p.values, p.rows, p.cols); }

void LoraParams::upload() {
  for (TrainedSite& site : sites_) {
    site.a_device = device(parameters_[size_t(site.a)]);
    site.b_device = device(parameters_[size_t(site.b)]);
    if (site.m < 0) continue;
    const Parameter& m = parameters_[size_t(site.m)];
    std::vector<float> lengths(m.values.size());
    backend_.read(grad_.row_lengths(model_.site_weights()[size_t(site.site)], site.a_device, site.b_device, scale_),
                  lengths);
    for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = m.values[i] / lengths[i];
    site.factor = backend_.upload(lengths, 1, m.cols);
  }
}

void LoraParams::collect() {
  std::vector<float> values;
  const auto add = [&](Tensor& gradient, int number, bool by_value) {
    if (!gradient) return;
    Parameter& p = parameters_[size_t(number)];
    values.resize(p.values.size());
    backend_.read(gradient, values);
    gradient = {};
    for (size_t i = 0; i < values.size(); ++i) p.gradient[i] += by_value ? values[i] / p.values[i] : values[i];
  };
  for (TrainedSite& site : sites_) {
    add(site.da, site.a, false);
    add(site.db, site.b, false);
    add(site.dots, site.m, true);
  }
}

void LoraParams::zero_gradients() {
  for (Parameter& p : parameters_) std::fill(p.gradient.begin(), p.gradient.end(), 0.0f);
}

TrainedSite* LoraParams::find(int site) {
  const int place = site < 0 ? -1 : place_[size_t(site)];
  return place < 0 ? nullptr : &sites_[size_t(place)];
}

std::span<const FrozenTerm> LoraParams::frozen(int site) const {
  const auto found = frozen_.find(site);
  if (hidden_ || found == frozen_.end()) return {};
  return found->second;
}

uint64_t LoraParams::count() const {
  uint64_t count = 0;
  for (const Parameter& p : parameters_) count += p.values.size();
  return count;
}

void LoraParams::freeze(const lora::Adapter& adapter, float weight) {
  const auto cannot = [&](const std::string& path, const char* what) {
    throw Error(
        ErrorCode::unsupported, "train",
        cat("adapter '", adapter.name, "', module '", path, "': training on top of ", what, " is not implemented"));
  };
  if (!std::isfinite(weight)) refuse(cat("adapter '", adapter.name, "': expected a finite weight, got ", weight));
  for (const auto& [path, change] : adapter.modules) {
    if (change.weight || change.bias) cannot(path, "replaced weights and biases");
    const auto site =
        std::find_if(model_.sites().begin(), model_.sites().end(), [&](const nn::Site& s) { return s.name == path; });
    BB_CHECK(site != model_.sites().end(), path);
    if (site->kind != nn::Site::Kind::linear || lora::layer_of(path) < 0) cannot(path, "an adapted embedding or head");
    const lora::LowRank& low = *change.low_rank;
    if (!low.magnitude.empty()) cannot(path, "DoRA");
    if (!low.b_bias.empty()) cannot(path, "a bias of B");
    const int number = int(site - model_.sites().begin());
    if (options_.type == FineTune::dora && find(number) != nullptr)
      cannot(path, "another adapter of the same module with DoRA");
    frozen_[number].push_back({backend_.upload(low.a.values, low.a.rows, low.a.cols),
                               backend_.upload(low.b.values, low.b.rows, low.b.cols), low.scale * weight});
  }
}

void LoraParams::begin_with(const lora::Adapter& adapter) {
  const std::string& where = adapter.where.empty() ? adapter.name : adapter.where;
  const auto differs = [&](const std::string& what) { throw Error(ErrorCode::bad_request, where, what); };
  if (adapter.modules.size() != sites_.size())
    differs(cat("modules: expected the ", sites_.size(), " that are trained, got ", adapter.modules.size()));
  for (TrainedSite& site : sites_) {
    const std::string& path = model_.sites()[size_t(site.site)].name;
    const auto found = adapter.modules.find(path);
    if (found == adapter.modules.end() || !found->second.low_rank) differs(cat("factors of '", path, "' are missing"));
    const lora::LowRank& low = *found->second.low_rank;
    Parameter &a = parameters_[size_t(site.a)], &b = parameters_[size_t(site.b)];
    if (low.a.rows != a.rows || low.a.cols != a.cols || low.b.rows != b.rows || low.b.cols != b.cols)
      differs(cat("'", path, "': expected rank ", a.rows, " and sizes [", b.rows, ", ", a.cols, "], got rank ",
                  low.rank(), " and [", low.b.rows, ", ", low.a.cols, "]"));
    if (low.scale != scale_) differs(cat("'", path, "': expected a scale of ", scale_, ", got ", low.scale));
    if (low.magnitude.empty() != (site.m < 0) || !low.b_bias.empty())
      differs(cat("'", path, "': expected ", site.m < 0 ? "LoRA" : "DoRA", " without a bias of B"));
    a.values = low.a.values;
    b.values = low.b.values;
    if (site.m >= 0) parameters_[size_t(site.m)].values = low.magnitude;
  }
  upload();
}

lora::Adapter LoraParams::adapter(const std::string& name, const std::string& base) const {
  lora::Adapter result;
  result.name = name;
  result.base = base;
  result.kind = options_.type == FineTune::dora ? lora::Kind::dora : lora::Kind::lora;
  for (const TrainedSite& site : sites_) {
    const Parameter &a = parameters_[size_t(site.a)], &b = parameters_[size_t(site.b)];
    lora::LowRank low;
    low.a = {a.rows, a.cols, a.values};
    low.b = {b.rows, b.cols, b.values};
    low.scale = scale_;
    if (site.m >= 0) low.magnitude = parameters_[size_t(site.m)].values;
    result.modules[model_.sites()[size_t(site.site)].name].low_rank = std::move(low);
  }
  return result;
}

}  // namespace bumblebee::train
