// What the kinds share: state, and the table of who takes which setting.
#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace bumblebee::train {

Optimizer::Optimizer(Backend& backend) : ops_(require_grad_ops(backend)), backend_(backend) {}

void Optimizer::make_states(std::span<const Parameter> parameters) {
  std::vector<Tensor> all;
  for (const Parameter& p : parameters) {
    State& state = states_.emplace_back();
    for (const auto& [name, size] : layout(p)) {
      state[name] = backend_.make(size.first, size.second);
      all.push_back(state[name]);
    }
  }
  ops_.clear(all);
}

void Optimizer::update(std::span<Parameter> parameters, float rate) {
  if (states_.empty()) make_states(parameters);
  BB_CHECK(states_.size() == parameters.size());
  ++step_;
  apply(parameters, states_, rate);
}

void Optimizer::restore(uint64_t step, std::span<const StoredState> states, std::span<const Parameter> parameters,
                        const std::string& where) {
  const auto broken = [&](const std::string& what) { throw Error(ErrorCode::bad_file, where, "optimizer: " + what); };
  if (step == 0) {
    if (!states.empty()) broken("expected no state before the first update");
  } else if (states.size() != parameters.size()) {
    broken(cat("expected the state of ", parameters.size(), " parameters, got ", states.size()));
  }
  for (size_t i = 0; i < states.size(); ++i) {
    const Layout wanted = layout(parameters[i]);
    bool same = wanted.size() == states[i].size();
    for (const auto& [name, size] : wanted) {
      const auto found = states[i].find(name);
      same = same && found != states[i].end() && found->second.size() == size_t(size.first) * size_t(size.second);
    }
    if (!same) broken(cat("'", parameters[i].name, "': its state has other parts or sizes"));
  }
  step_ = step;
  states_.clear();
  for (size_t i = 0; i < states.size(); ++i) {
    State& state = states_.emplace_back();
    for (const auto& [name, size] : layout(parameters[i]))
      state[name] = backend_.upload(states[i].at(name), size.first, size.second);
  }
}

uint64_t Optimizer::state_size(std::span<const Parameter> parameters) const {
  uint64_t count = 0;
  for (const Parameter& p : parameters) {
    for (const auto& [name, size] : layout(p)) count += uint64_t(size.first) * uint64_t(size.second);
  }
  return count;
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
  BB_UNREACHABLE();
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

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, Backend& backend) {
  check_settings(options);
  switch (options.kind) {
    case OptimizerKind::adam:
    case OptimizerKind::adamw: return make_adam(options, backend);
    case OptimizerKind::muon: return make_muon(options, backend);
    case OptimizerKind::sgd: return make_sgd(options, backend);
    case OptimizerKind::adafactor: return make_adafactor(options, backend);
  }
  BB_UNREACHABLE();
}

}  // namespace bumblebee::train
