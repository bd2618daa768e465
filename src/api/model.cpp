// Loading: read the config, plan (claim every tensor and learn its format without reading it), ask the device, and only
// then read.
#include "bumblebee/model.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "api/model_state.h"
#include "api/pinning.h"
#include "api/recording_source.h"
#include "backend/registry.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "bumblebee/device.h"
#include "io/checkpoint.h"
#include "io/quantizing_source.h"
#include "models/registry.h"

namespace bumblebee {
namespace {

using api::ModelState;
using api::RecordingSource;

int bits_of(Quantization quantization) {
  switch (quantization) {
    case Quantization::as_stored: return 0;
    case Quantization::int2: return 2;
    case Quantization::int3: return 3;
    case Quantization::int4: return 4;
    case Quantization::int5: return 5;
    case Quantization::int6: return 6;
    case Quantization::int8: return 8;
  }
  BB_UNREACHABLE();
}

/// The width, group and mode that most quantized modules have; zeros and "dense" when none is quantized.
std::tuple<int, int, std::string> usual_format(const std::vector<ModuleInfo>& modules) {
  std::map<std::tuple<int, int, std::string>, int> counts;
  for (const ModuleInfo& module : modules) {
    if (module.bits > 0) counts[{module.bits, module.group_size, module.mode}] += module.experts;
  }
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == counts.end() ? std::tuple(0, 0, std::string("dense")) : most->first;
}

/// What a token needs of the matrices: of tables only that of a tied head.
uint64_t active_bytes(const nn::Model& model, const std::vector<ModuleInfo>& modules) {
  const nn::ModelDims& dims = model.dims();
  std::set<std::string> tables;
  for (const nn::TargetModule& module : model.target_modules()) {
    const bool is_head = dims.tied_head && tables.empty();  // the first one is the embedding
    if (module.kind == nn::TargetModule::Kind::embedding) tables.insert(is_head ? "" : module.name);
  }
  uint64_t bytes = 0;
  for (const ModuleInfo& module : modules) {
    const bool of_experts = module.experts > 1 || module.name.find(".experts.") != std::string::npos;
    if (of_experts) {
      bytes += module.bytes * uint64_t(dims.experts_per_token) / uint64_t(dims.experts);
    } else if (!tables.contains(module.name)) {
      bytes += module.bytes;
    }
  }
  return bytes;
}

struct Plan {
  models::ModelSpec spec;
  ModelInfo info;
  std::vector<Format> formats;
  std::vector<Operation> operations;
};

/// Claims every tensor of the checkpoint and reads none. `bits` > 0: with dense matrices quantized.
Plan make_plan(const std::filesystem::path& directory, int bits, int group) {
  const std::unique_ptr<Checkpoint> checkpoint = Checkpoint::open(directory);
  const HfConfig& config = checkpoint->config();
  Plan plan{
      .spec = models::read_spec(config.text(), config.path.string()), .info = {}, .formats = {}, .operations = {}};
  QuantizingSource quantizing(*checkpoint, checkpoint->config(), bits, group, nullptr);
  RecordingSource recording(bits > 0 ? static_cast<WeightSource&>(quantizing) : *checkpoint);
  nn::Loader loader(recording, nullptr);
  const auto model = models::make_model(plan.spec, loader);
  plan.formats = loader.formats();
  plan.operations = loader.operations();

  const nn::ModelDims& dims = model->dims();
  ModelInfo& info = plan.info;
  info.architecture = plan.spec.family;
  info.parameters = recording.parameters();
  info.weight_bytes = recording.bytes();
  info.layers = dims.layers;
  info.hidden = dims.d_model;
  info.heads = dims.heads;
  info.kv_heads = dims.kv_heads;
  info.head_dim = dims.head_dim;
  info.intermediate = dims.d_ff;
  info.vocab = dims.vocab;
  info.context = dims.context;
  info.tied_head = dims.tied_head;
  for (const Operation operation : plan.operations) {
    if (!has_derivative(operation) && info.without_derivative.empty()) info.without_derivative = name_of(operation);
  }
  info.experts = dims.experts;
  info.experts_per_token = dims.experts_per_token;
  info.expert_intermediate = dims.d_expert;
  info.state_bytes = state_bytes(dims.kv_shape(exec::kPageSize, 1, DType::f32));
  for (const KvGroup& g : dims.kv_shape(exec::kPageSize, 1, DType::f32).groups) {
    if (g.kind != KvGroup::Kind::attention) continue;
    info.cached_heads += int64_t{2} * g.layers * g.kv_heads;
    info.cached_features += int64_t{g.kept()} * g.layers * g.kv_heads * g.head_dim;
  }
  info.modules = recording.modules();
  info.active_weight_bytes = active_bytes(*model, info.modules);
  std::tie(info.bits, info.group_size, info.mode) = usual_format(info.modules);
  return plan;
}

/// The width to quantize to while loading: 0 when the checkpoint stays as it is. Refuses to change one width into
/// another.
int quantize_to(const Repository& repository, const ModelInfo& stored, const ModelOptions& options) {
  const int wanted = bits_of(options.quantization);
  if (wanted == 0 || (stored.bits == wanted && stored.mode == "affine")) return 0;
  if (stored.bits != 0) {
    throw Error(
        ErrorCode::bad_request, repository.name(),
        cat("quantization: asked for int", wanted, ", but the checkpoint is quantized to ", stored.bits, " bits (",
            stored.mode, ") already; quantizing it again would lose quality twice: load it as it is, or a dense one"));
  }
  if (options.group_size != 32 && options.group_size != 64 && options.group_size != 128) {
    throw Error(ErrorCode::bad_request, repository.name(),
                cat("group_size: expected 32, 64 or 128, got ", options.group_size));
  }
  return wanted;
}

nn::Loader::Progress progress_of(const ModelOptions& options, uint64_t total) {
  if (!options.progress) return nullptr;
  return [&progress = options.progress, total](uint64_t done) {
    if (!progress(std::min(done, total), total)) throw Error(ErrorCode::cancelled, "load", "cancelled");
  };
}

}  // namespace

DType api::dtype_of(KvType type) {
  switch (type) {
    case KvType::f32: return DType::f32;
    case KvType::f16: return DType::f16;
    case KvType::int8: return DType::i8;
    default: return DType::bf16;
  }
}

uint64_t ModelInfo::kv_bytes(int tokens, KvType type) const {
  const DType dtype = api::dtype_of(type);
  const uint64_t token = uint64_t(cached_features) * uint64_t(size_of(dtype)) +
                         (dtype == DType::i8 ? uint64_t(cached_heads) * sizeof(float) : 0);
  return uint64_t(std::max(tokens, 0)) * token;
}

std::unique_ptr<exec::Executor> ModelState::make_executor(exec::CacheLimits limits) const {
  limits.dtype = api::dtype_of(options.kv_type);
  return std::make_unique<exec::LocalExecutor>(device, limits);
}

ModelInfo inspect_model(const Repository& repository) { return make_plan(repository.directory(), 0, 0).info; }

/// Which device was chosen, with what it brings.
void log_device(const ModelOptions& options, int threads) {
  if (!is_logged(LogLevel::info)) return;
  for (const DeviceInfo& device : devices()) {
    if (device.name != options.device) continue;
    log(LogLevel::info, "device chosen: device=", device.name, " kernels=", device.kernels, " threads=", threads,
        " precision=", options.precision == Precision::fast ? "fast" : "exact", " memory_bytes=", device.memory_bytes,
        " free_bytes=", device.free_bytes, " description='", device.description, "'");
  }
}

Model load_model(const Repository& repository, const ModelOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const auto directory = repository.directory();
  Plan plan = make_plan(directory, 0, 0);
  const int bits = quantize_to(repository, plan.info, options);
  if (bits > 0) plan = make_plan(directory, bits, options.group_size);
  // The least that has to fit beside the weights: a page of keys and values.
  const uint64_t least =
      plan.info.weight_bytes + plan.info.kv_bytes(exec::kPageSize, options.kv_type) + plan.info.state_bytes;
  const Device device = require_device(options.device, plan.formats, least, plan.operations);

  auto state = std::make_shared<ModelState>();
  state->info = std::move(plan.info);
  state->directory = directory;
  state->options = options;
  state->options.device = name_of(device);
  if (options.kv_type == KvType::by_precision)
    state->options.kv_type = options.precision == Precision::fast ? KvType::bf16 : KvType::f32;
  std::unique_ptr<Backend> backend = device.entry->create({.device = device.index,
                                                           .threads = options.threads,
                                                           .pin = api::pin_of(options.pinning),
                                                           .fast = options.precision == Precision::fast,
                                                           .instruction_set = {}});
  log_device(options, options.threads > 0 ? options.threads : available_cores());
  const std::unique_ptr<Checkpoint> checkpoint = Checkpoint::open(directory);
  log(LogLevel::info, "checkpoint opened: model='", repository.name(), "' architecture=", state->info.architecture,
      " parameters=", state->info.parameters, " weight_bytes=", state->info.weight_bytes, " bits=", state->info.bits,
      " group_size=", state->info.group_size, " quantized_here=", bits > 0 ? "yes" : "no");
  std::optional<ThreadPool> pool;
  if (bits > 0) pool.emplace(options.threads);
  QuantizingSource quantizing(*checkpoint, checkpoint->config(), bits, options.group_size, pool ? &*pool : nullptr);
  nn::Loader loader(bits > 0 ? static_cast<WeightSource&>(quantizing) : *checkpoint, backend.get(),
                    progress_of(options, state->info.weight_bytes));
  std::unique_ptr<nn::Model> model = models::make_model(plan.spec, loader);
  backend->finish_packing();
  log(LogLevel::info, "weights packed: model='", repository.name(), "' bytes=", backend->memory().weights,
      " seconds=", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  state->options.progress = nullptr;  // the caller's; not to be kept
  state->device = std::make_shared<exec::DeviceModel>(std::move(backend), std::move(model), repository.name(),
                                                      options.max_adapter_bytes);
  return Model(std::move(state));
}

const ModelInfo& Model::info() const { return state_->info; }
const ModelOptions& Model::options() const { return state_->options; }

void Model::logits(std::span<const int32_t> tokens,
                   const std::function<void(int row, std::span<const float> logits)>& each,
                   const std::vector<WeightedAdapter>& adapters) const {
  ModelState& state = *state_;
  const ModelInfo& info = state.info;
  const auto refuse = [](const std::string& what) { throw Error(ErrorCode::bad_request, "logits", what); };
  if (tokens.empty()) refuse("expected at least one token, got none");
  if (tokens.size() > size_t(info.context))
    refuse(cat("expected at most ", info.context, " tokens (the model's context), got ", tokens.size()));
  for (int32_t token : tokens) {
    if (token < 0 || token >= info.vocab)
      refuse(cat("expected ids below the vocabulary of ", info.vocab, ", got ", token));
  }
  const int count = int(tokens.size()), vocab = info.vocab, stretch_beyond = state.model().dims().stretch_beyond;
  const auto executor = state.make_executor({.sequences = 1, .sequence_length = count});
  const exec::SlotLease lease = executor->slot(state.open(adapters));
  std::vector<int32_t> pages(size_t(executor->pages()));
  std::iota(pages.begin(), pages.end(), 0);
  // Rows per step: enough to use the matrix kernels well, few enough that their logits stay near 64 MB.
  const int chunk = std::clamp(int((size_t{16} << 20) / size_t(vocab)), 16, 512);
  for (int first = 0; first < count; first += chunk) {
    const int rows = std::min(chunk, count - first);
    exec::Step step;
    step.batch.append(tokens.subspan(size_t(first), size_t(rows)), first, pages, Batch::Want::all, lease.slot(),
                      executor->states() > 0 ? StateSlots{first > 0 ? 0 : -1, 0} : StateSlots());
    step.batch.segments.back().stretched = stretch_beyond > 0 && count > stretch_beyond;
    step.wants.logits = true;
    const exec::StepResult& result = executor->wait(executor->launch(step));
    for (int row = 0; row < rows; ++row)
      each(first + row, result.logits.subspan(size_t(row) * size_t(vocab), size_t(vocab)));
  }
}

}  // namespace bumblebee
