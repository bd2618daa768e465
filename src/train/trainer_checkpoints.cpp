// Where a run goes on from: the trainer's state to a checkpoint and back.
#include <filesystem>

#include "base/error.h"
#include "train/trainer.h"

namespace bumblebee::train {

namespace fs = std::filesystem;

/// Opens the checkpoints, and goes on from the newest where that is asked for. True: this is a new run.
bool Trainer::open_checkpoints() {
  const fs::path directory = options_.adapter_path / "checkpoints";
  if (options_.keep_checkpoints == 0) {
    // The lock of who may still train there, and a resume that finds none of another run.
    if (options_.overwrite && fs::is_directory(directory)) CheckpointStore(directory, 1).clear();
    return true;
  }
  store_ = std::make_unique<CheckpointStore>(directory, options_.keep_checkpoints);
  if (options_.overwrite) store_->clear();
  if (!options_.resume) {
    if (store_->empty()) return true;
    throw Error(ErrorCode::bad_request, options_.adapter_path.string(),
                "holds the checkpoints of an earlier run: resume it, overwrite it, or choose another adapter_path");
  }
  const std::optional<Snapshot> snapshot = store_->newest();
  if (snapshot) {
    resume(*snapshot);
  } else if (fs::exists(directory / "latest")) {
    throw Error(ErrorCode::bad_file, directory.string(),
                "'latest' names a checkpoint, and there is none: expected one to resume from; overwrite to begin anew");
  }
  return !snapshot;
}

void Trainer::resume(const Snapshot& snapshot) {
  const std::string where = (options_.adapter_path / "checkpoints").string();
  if (!snapshot.state.is_object() || !snapshot.state.contains("run"))
    throw Error(ErrorCode::bad_file, where, "state.json: expected an object with 'run'");
  Json now = identity_;
  const Json began = snapshot.state.value("options", Json());
  for (const char* key : {"base", "date"})  // not verified then; not kept then
    if (began.is_object() && !began.contains(key)) now.erase(key);
  check_identity(began, now, where);
  const Json& run = snapshot.state["run"];
  state_ = read_run_state(run, where);
  if (!run.contains("validated") && state_.val_loss)  // not written then: it came with the multiples
    state_.validated = state_.iteration - state_.iteration % options_.steps_per_eval;
  std::vector<std::vector<float>> values, gradients;
  std::vector<Optimizer::StoredState> states;
  for (const Parameter& p : params_.parameters()) {
    const auto load = [&](const std::string& part) -> const std::vector<float>* {
      const auto found = snapshot.tensors.find(p.name + part);
      if (found == snapshot.tensors.end()) return nullptr;
      if (found->second.size() != p.size())
        throw Error(ErrorCode::bad_file, where,
                    cat("tensor '", found->first, "': expected ", p.size(), " values, got ", found->second.size()));
      return &found->second;
    };
    const std::vector<float>* value = load("#value");
    if (value == nullptr) throw Error(ErrorCode::bad_file, where, cat("tensor '", p.name, "#value' is missing"));
    values.push_back(*value);
    if (const std::vector<float>* gradient = load("#gradient")) gradients.push_back(*gradient);
    const std::string prefix = p.name + "#state.";
    Optimizer::StoredState state;
    for (auto at = snapshot.tensors.lower_bound(prefix); at != snapshot.tensors.end() && at->first.starts_with(prefix);
         ++at)
      state[at->first.substr(prefix.size())] = at->second;
    states.push_back(std::move(state));
  }
  if (gradients.size() != (state_.accumulated > 0 ? values.size() : 0))
    throw Error(ErrorCode::bad_file, where,
                cat("gradients: expected ", state_.accumulated > 0 ? values.size() : 0, ", got ", gradients.size()));
  if (state_.updates == 0) states.clear();
  in_.device.run([&] {
    optimizer_->restore(uint64_t(state_.updates), states, params_.parameters(), where);
    params_.write(values);
    if (!gradients.empty()) write_values(grad_, gradients, gradients_of(params_.parameters()));
  });
  stream_.seek(state_.cursor);
  if (state_.best_iteration > 0 && options_.save_best) best_ = options_.adapter_path / "best";
  note(cat("goes on after iteration ", state_.iteration));
}

Snapshot Trainer::snapshot() const {
  Snapshot snapshot;
  snapshot.iteration = state_.iteration;
  snapshot.state = {{"version", 1}, {"options", identity_}, {"run", to_json(state_)}};
  std::vector<std::string> names;
  std::vector<Tensor> tensors;
  const auto add = [&](const std::string& name, const Tensor& tensor) {
    names.push_back(name);
    tensors.push_back(tensor);
  };
  const std::vector<Parameter>& parameters = params_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    add(parameters[i].name + "#value", parameters[i].value);
    if (state_.accumulated > 0) add(parameters[i].name + "#gradient", parameters[i].gradient);
    if (optimizer_->states().empty()) continue;
    for (const auto& [name, tensor] : optimizer_->states()[i]) add(parameters[i].name + "#state." + name, tensor);
  }
  std::vector<std::vector<float>> values;
  in_.device.run([&] { values = read_values(grad_, tensors); });
  for (size_t i = 0; i < names.size(); ++i) snapshot.tensors[names[i]] = std::move(values[i]);
  return snapshot;
}

}  // namespace bumblebee::train
