// What the kinds share: state, the table of who takes which setting, and clipping.
#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace bumblebee::train {

void Optimizer::update(std::span<Parameter> parameters, float rate) {
  if (states_.empty()) {
    for (const Parameter& p : parameters) {
      State& state = states_.emplace_back();
      for (const auto& [name, size] : layout(p)) state[name].resize(size);
    }
  }
  BB_CHECK(states_.size() == parameters.size());
  ++step_;
  for (size_t i = 0; i < parameters.size(); ++i) apply(parameters[i], states_[i], rate * parameters[i].rate_ratio);
}

void Optimizer::restore(uint64_t step, std::vector<State> states, std::span<const Parameter> parameters,
                        const std::string& where) {
  const auto broken = [&](const std::string& what) { throw Error(ErrorCode::bad_file, where, "optimizer: " + what); };
  if (step == 0) {
    if (!states.empty()) broken("expected no state before the first update");
  } else if (states.size() != parameters.size()) {
    broken(cat("expected the state of ", parameters.size(), " parameters, got ", states.size()));
  }
  for (size_t i = 0; i < states.size(); ++i) {
    const auto wanted = layout(parameters[i]);
    bool same = wanted.size() == states[i].size();
    for (const auto& [name, size] : wanted) {
      const auto found = states[i].find(name);
      same = same && found != states[i].end() && found->second.size() == size;
    }
    if (!same) broken(cat("'", parameters[i].name, "': its state has other parts or sizes"));
  }
  step_ = step;
  states_ = std::move(states);
}

uint64_t Optimizer::state_size(std::span<const Parameter> parameters) const {
  uint64_t size = 0;
  for (const Parameter& p : parameters) {
    for (const auto& [name, count] : layout(p)) size += count;
  }
  return size;
}

float complement(float beta) { return float(1 - std::round(double(beta) * 1e7) / 1e7); }

std::string_view to_string(OptimizerKind kind) {
  switch (kind) {
    case OptimizerKind::adam: return "adam";
    case OptimizerKind::adamw: return "adamw";
    case OptimizerKind::muon: return "muon";
    case OptimizerKind::sgd: return "sgd";
    case OptimizerKind::adafactor: return "adafactor";
  }
  BB_CHECK(false);
}

namespace {

struct Setting {
  const char* name;
  bool given;
  std::vector<OptimizerKind> kinds;
};

void check_settings(const OptimizerOptions& o) {
  using enum OptimizerKind;
  const Setting settings[] = {
      {"betas", o.betas.has_value(), {adam, adamw}},
      {"eps", o.eps.has_value(), {adam, adamw}},
      {"bias_correction", o.bias_correction.has_value(), {adam, adamw}},
      {"weight_decay", o.weight_decay.has_value(), {adamw, muon, sgd, adafactor}},
      {"momentum", o.momentum.has_value(), {muon, sgd}},
      {"dampening", o.dampening.has_value(), {sgd}},
      {"nesterov", o.nesterov.has_value(), {muon, sgd}},
      {"ns_steps", o.ns_steps.has_value(), {muon}},
      {"factored_eps", o.factored_eps.has_value(), {adafactor}},
      {"clip_threshold", o.clip_threshold.has_value(), {adafactor}},
      {"decay_rate", o.decay_rate.has_value(), {adafactor}},
      {"beta_1", o.beta_1.has_value(), {adafactor}},
      {"scale_parameter", o.scale_parameter.has_value(), {adafactor}},
      {"relative_step", o.relative_step.has_value(), {adafactor}},
      {"warmup_init", o.warmup_init.has_value(), {adafactor}},
  };
  for (const Setting& s : settings) {
    if (s.given && std::find(s.kinds.begin(), s.kinds.end(), o.kind) == s.kinds.end())
      throw Error(ErrorCode::bad_request, "optimizer", cat(to_string(o.kind), " has no setting '", s.name, "'"));
  }
  for (const auto& [name, value] : {std::pair("eps", o.eps), std::pair("weight_decay", o.weight_decay),
                                    std::pair("momentum", o.momentum), std::pair("dampening", o.dampening),
                                    std::pair("clip_threshold", o.clip_threshold), std::pair("beta_1", o.beta_1)}) {
    if (value && !(*value >= 0 && std::isfinite(*value)))
      throw Error(ErrorCode::bad_request, "optimizer", cat(name, ": expected at least 0, got ", *value));
  }
}

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options) {
  check_settings(options);
  switch (options.kind) {
    case OptimizerKind::adam:
    case OptimizerKind::adamw: return make_adam(options);
    case OptimizerKind::muon: return make_muon(options);
    case OptimizerKind::sgd: return make_sgd(options);
    case OptimizerKind::adafactor: return make_adafactor(options);
  }
  BB_CHECK(false);
}

double gradient_norm(std::span<const Parameter> parameters) {
  double squares = 0;
  for (const Parameter& p : parameters) {
    double own = 0;
    for (const float g : p.gradient) own += double(g) * double(g);
    squares += own;
  }
  return std::sqrt(squares);
}

void scale_gradients(std::span<Parameter> parameters, float factor) {
  for (Parameter& p : parameters) {
    for (float& g : p.gradient) g *= factor;
  }
}

double clip_gradients(std::span<Parameter> parameters, float max_norm) {
  const double norm = gradient_norm(parameters);
  if (max_norm > 0) {
    const float factor = std::min(max_norm / (float(norm) + 1e-6f), 1.0f);
    if (factor < 1) scale_gradients(parameters, factor);
  }
  return norm;
}

}  // namespace bumblebee::train
