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
  refresh();
  check_factors("train");
}

void LoraParams::add_site(int number, uint64_t seed) {
  const nn::Site& site = model_.sites()[size_t(number)];
  first_layer_ = std::min(first_layer_, lora::layer_of(site.name));
  TrainedSite trained;
  trained.site = number;
  trained.first = int(parameters_.size());
  const auto add = [&](const char* leaf, std::span<const float> values, int rows, int cols) -> Parameter& {
    return parameters_.emplace_back(make_parameter(backend_, site.name + leaf, values, rows, cols));
  };
  const double bound = 1 / std::sqrt(double(site.in));
  std::vector<float> values(size_t(options_.rank) * size_t(site.in));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = float((2 * uniform01(seed, i, kInitStream | uint64_t(number)) - 1) * bound);
  Parameter& a = add(".lora_a", values, options_.rank, site.in);
  a.turned = true;
  trained.a = a.value;
  trained.da = a.gradient;
  values.assign(size_t(site.out) * size_t(options_.rank), 0);
  Parameter& b = add(".lora_b", values, site.out, options_.rank);
  b.turned = true;
  b.rate_ratio = options_.b_rate_ratio;
  trained.b = b.value;
  trained.db = b.gradient;
  if (options_.type == FineTune::dora) {
    values.resize(size_t(site.out));
    backend_.read(lengths(trained), values);
    const Parameter& m = add(".m", values, 1, site.out);
    trained.m = m.value;
    trained.dm = m.gradient;
  }
  place_[size_t(number)] = int(sites_.size());
  sites_.push_back(std::move(trained));
}

Tensor LoraParams::lengths(const TrainedSite& site) const {
  return grad_.row_lengths(model_.site_weights()[size_t(site.site)], site.a, site.b, scale_);
}

void LoraParams::refresh() {
  std::vector<Tensor> factors, by;
  for (TrainedSite& site : sites_) {
    if (!site.m) continue;
    by.push_back(lengths(site));
    site.factor = backend_.ops().copy(site.m);
    factors.push_back(site.factor);
  }
  grad_.divide(factors, by);
}

void LoraParams::check_factors(const std::string& where) const {
  for (const TrainedSite& site : sites_) {
    if (!site.m) continue;
    std::vector<float> values(size_t(site.factor.cols()));
    backend_.read(site.factor, values);
    for (size_t i = 0; i < values.size(); ++i) {
      // The gradient of m is divided by m.
      if (std::isfinite(values[i]) && values[i] != 0) continue;
      throw Error(ErrorCode::bad_file, where,
                  cat("module '", model_.sites()[size_t(site.site)].name, "': DoRA divides the magnitude of row ", i,
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
  for (const Parameter& p : parameters_) count += p.size();
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
  std::vector<std::vector<float>> values;
  for (const TrainedSite& site : sites_) {
    const std::string& path = model_.sites()[size_t(site.site)].name;
    const auto found = adapter.modules.find(path);
    if (found == adapter.modules.end() || !found->second.low_rank) differs(cat("factors of '", path, "' are missing"));
    const lora::LowRank& low = *found->second.low_rank;
    const Tensor &a = site.a, &b = site.b;
    if (low.a.rows != a.rows() || low.a.cols != a.cols() || low.b.rows != b.rows() || low.b.cols != b.cols())
      differs(cat("'", path, "': expected rank ", a.rows(), " and sizes [", b.rows(), ", ", a.cols(), "], got rank ",
                  low.rank(), " and [", low.b.rows, ", ", low.a.cols, "]"));
    if (low.scale != scale_) differs(cat("'", path, "': expected a scale of ", scale_, ", got ", low.scale));
    if (low.magnitude.empty() != !site.m || !low.b_bias.empty())
      differs(cat("'", path, "': expected ", site.m ? "DoRA" : "LoRA", " without a bias of B"));
    values.push_back(low.a.values);
    values.push_back(low.b.values);
    if (site.m) values.push_back(low.magnitude);
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
  for (const TrainedSite& site : sites_) {
    const size_t at = size_t(site.first);
    lora::LowRank low;
    low.a = {site.a.rows(), site.a.cols(), std::move(values[at])};
    low.b = {site.b.rows(), site.b.cols(), std::move(values[at + 1])};
    low.scale = scale_;
    if (site.m) low.magnitude = std::move(values[at + 2]);
    result.modules[model_.sites()[size_t(site.site)].name].low_rank = std::move(low);
  }
  return result;
}

}  // namespace bumblebee::train
