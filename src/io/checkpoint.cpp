// Finding a directory's files, and the names in them.
#include "io/checkpoint.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/log.h"
#include "base/mapped_file.h"
#include "io/quote.h"

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kWhole = "model.safetensors";
constexpr size_t kLargestIndex = size_t{64} << 20;
constexpr const char* kOuter = "language_model.";        // as MLX's tools write the text half of a model with vision
constexpr const char* kInner = "model.language_model.";  // as transformers does, with the head outside
constexpr std::string_view kPlain = "model.";
constexpr std::string_view kHead = "lm_head";

std::vector<fs::path> list(const fs::path& directory) {
  std::error_code error;
  std::vector<fs::path> files;
  for (fs::directory_iterator it(directory, error), last; !error && it != last; it.increment(error))
    files.push_back(it->path());
  if (error) throw Error(ErrorCode::bad_file, directory.string(), cat("cannot list the directory: ", error.message()));
  std::sort(files.begin(), files.end());
  return files;
}

[[noreturn]] void refuse_directory(const fs::path& directory, const std::vector<fs::path>& files) {
  const std::string expected = "expected model.safetensors or model-*.safetensors";
  for (const auto& file : files) {
    const std::string name = file.filename().string();
    if (name.ends_with(".gguf")) {
      throw Error(ErrorCode::unsupported, directory.string(),
                  cat("weights: ", expected, ", got ", in_quotes(name), ": convert it with `bumblebee convert ", name,
                      " DIR`"));
    }
    if (name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth")) {
      throw Error(ErrorCode::unsupported, directory.string(),
                  cat("weights: ", expected, ", got ", in_quotes(name),
                      ": pickle files can run code when read and are refused"));
    }
  }
  throw Error(ErrorCode::bad_file, directory.string(), cat("weights: ", expected, ", got none"));
}

/// A shard's path inside the directory. Lexical only: the files of a hub cache are links to elsewhere, and rightly so.
bool stays_inside(const fs::path& relative) {
  if (relative.empty() || relative.is_absolute()) return false;
  return std::none_of(relative.begin(), relative.end(),
                      [](const fs::path& part) { return part == ".." || part == "."; });
}

bool is_weights(const fs::path& path, std::string_view start) {
  const std::string name = path.filename().string();
  return name.starts_with(start) && name.ends_with(".safetensors");
}

/// Whether an index speaks of a packaging that is not here: none of its shards, but one file with everything. Tools
/// that join shards leave such a one behind.
bool is_of_others(const Json& map, const fs::path& directory) {
  std::error_code error;
  if (!fs::exists(directory / kWhole, error)) return false;
  return std::none_of(map.begin(), map.end(), [&](const Json& shard) {
    return !shard.is_string() || !stays_inside(shard.get<std::string>()) ||
           fs::exists(directory / shard.get<std::string>(), error);
  });
}

/// The head's module or one of its tensors, outside any packaging.
bool is_head(std::string_view name) {
  return name.starts_with(kHead) && (name.size() == kHead.size() || name[kHead.size()] == '.');
}

}  // namespace

bool is_activation_scale(std::string_view name) {
  constexpr std::array<std::string_view, 6> kLeaves = {
      ".input_scale", ".input_global_scale", ".output_scale", ".q_scale", ".k_scale", ".v_scale"};
  return std::any_of(kLeaves.begin(), kLeaves.end(), [&](std::string_view leaf) { return name.ends_with(leaf); });
}

bool is_beside_text(std::string_view name) {
  for (const char* part : {"mtp.", "vision_tower.", "vision_model.", "visual.", "multi_modal_projector.",
                           "mm_projector.", "vision_embedder.", "audio_tower.", "embed_vision.", "embed_audio."}) {
    const size_t at = name.find(part);
    if (at == 0 || (at != std::string_view::npos && name[at - 1] == '.')) return true;
  }
  return false;
}

std::unique_ptr<Checkpoint> Checkpoint::open(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    throw Error(ErrorCode::bad_file, directory.string(), "expected a checkpoint directory, got none");
  }
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->directory_ = directory;
  const bool has_config = fs::exists(directory / "config.json", error);
  // A directory with no readable weights at all is better told so than that its config is missing.
  if (has_config) checkpoint->config_ = HfConfig::open(directory);
  checkpoint->open_files();
  if (!has_config)
    throw Error(ErrorCode::bad_file, (directory / "config.json").string(),
                "missing: expected the model's configuration");
  checkpoint->find_prefix();
  checkpoint->keep_ = std::make_shared<std::vector<std::shared_ptr<const SafetensorsFile>>>(checkpoint->files_);
  return checkpoint;
}

void Checkpoint::open_files() {
  const auto present = list(directory_);
  std::error_code error;
  if (fs::exists(directory_ / kIndexName, error) && open_indexed(directory_ / kIndexName)) return;
  for (const auto& path : present) {
    if (is_weights(path, "model")) add_file(path);
  }
  if (!files_.empty()) return;
  for (const auto& path : present) {
    if (is_weights(path, "weight")) add_file(path);  // as MLX's first tools called them
  }
  if (files_.empty()) refuse_directory(directory_, present);
}

bool Checkpoint::open_indexed(const fs::path& path) {
  JsonLimits limits;
  limits.bytes = kLargestIndex;
  const Json index = parse_json(read_text_file(path, kLargestIndex), path.string(), limits);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw Error(ErrorCode::bad_file, path.string(), "'weight_map': expected an object of tensor names and files");
  }
  const Json& map = index["weight_map"];
  if (is_of_others(map, directory_)) {
    note(path.string(), "left out: none of the shards that it names is here, ", kWhole, " is");
    return false;
  }
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [name, value] : map.items()) {
    if (!value.is_string() || !stays_inside(value.get<std::string>())) {
      throw Error(ErrorCode::bad_file, path.string(),
                  cat("weight_map of ", in_quotes(name), ": expected a file inside the directory, got ", brief(value)));
    }
    const std::string shard = value.get<std::string>();
    if (!shard.ends_with(".safetensors")) {
      throw Error(ErrorCode::unsupported, path.string(),
                  cat("weight_map of ", in_quotes(name), ": expected a .safetensors file, got ", in_quotes(shard)));
    }
    auto [it, fresh] = shards.try_emplace(shard, nullptr);
    if (fresh) {
      std::error_code error;
      if (!fs::exists(directory_ / shard, error)) {
        throw Error(ErrorCode::bad_file, (directory_ / shard).string(),
                    cat("missing shard: named by ", kIndexName, " for ", in_quotes(name)));
      }
      add_file(directory_ / shard);
      it->second = files_.back().get();
    }
    if (it->second->find(name) == nullptr) {
      throw Error(ErrorCode::bad_file, it->second->where(),
                  cat("missing tensor ", in_quotes(name), ": named by ", kIndexName));
    }
  }
  if (files_.empty())
    throw Error(ErrorCode::bad_file, path.string(), "'weight_map': expected at least one tensor, got none");
  return true;
}

void Checkpoint::add_file(const fs::path& path) {
  const auto file = SafetensorsFile::open(path);
  for (const TensorEntry& tensor : file->tensors()) {
    const auto [it, fresh] = tensors_.try_emplace(tensor.name, Found{file.get(), &tensor});
    if (!fresh) {
      throw Error(ErrorCode::bad_file, file->where(),
                  cat("tensor ", in_quotes(tensor.name), " given twice: also in ", it->second.file->where()));
    }
  }
  files_.push_back(file);
}

void Checkpoint::find_prefix() {
  for (const char* prefix : {kOuter, kInner}) {
    const auto it = tensors_.lower_bound(prefix);
    if (it != tensors_.end() && it->first.starts_with(prefix)) prefix_ = prefix;
  }
  head_outside_ = prefix_ == kOuter && !find(cat(kOuter, kHead, ".weight")) && find(cat(kHead, ".weight"));
}

std::string Checkpoint::full(const std::string& name) const {
  if (head_outside_ && is_head(name)) return name;
  if (prefix_ != kInner) return prefix_ + name;
  return name.starts_with(kPlain) ? kInner + name.substr(kPlain.size()) : name;
}

std::string Checkpoint::plain(const std::string& name) const {
  const bool inside = !prefix_.empty() && name.starts_with(prefix_);
  const std::string rest = inside ? name.substr(prefix_.size()) : name;
  std::string own = inside && prefix_ == kInner ? cat(kPlain, rest) : rest;
  return is_beside_text(name) || full(own) != name ? std::string() : own;
}

/// A config may name modules as they are called inside the text model.
QuantizationConfig::Rule Checkpoint::rule(const std::string& path) const {
  const QuantizationConfig::Rule own = config_.quantization.rule(path);
  if (own.says != QuantizationConfig::Says::top_level || prefix_.empty() || !path.starts_with(prefix_)) return own;
  const std::string rest = path.substr(prefix_.size());
  return config_.quantization.rule(prefix_ == kInner ? cat(kPlain, rest) : rest);
}

Checkpoint::Found Checkpoint::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? Found{} : it->second;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> result;
  for (const auto& [name, found] : tensors_) result.push_back(name);
  return result;
}

bool Checkpoint::has(const std::string& name) const { return bool(find(full(name))); }
void Checkpoint::ignore(const std::string& name) { claimed_.insert(full(name)); }

std::vector<std::string> Checkpoint::unclaimed() const {
  std::vector<std::string> result, beside;
  for (const auto& [name, found] : tensors_) {
    if (claimed_.count(name) > 0) continue;
    if (config_.quantization.names() != TensorNames::mlx && is_activation_scale(name)) continue;
    const bool outside = prefix_ == kOuter && !name.starts_with(prefix_) && !is_head(name);
    const bool left = std::any_of(left_out_.begin(), left_out_.end(),
                                  [&](const std::string& prefix) { return name.starts_with(prefix); });
    (is_beside_text(name) || outside || left ? beside : result).push_back(name);
  }
  if (!beside.empty())
    note(directory_.string(), "left out ", beside.size(), " tensors beside the text model: ", list_names(beside));
  note_shapes();
  return result;
}

void Checkpoint::note_shapes() const {
  if (by_shapes_.empty()) return;
  std::vector<std::string> names;
  for (const auto& [path, spec] : by_shapes_) names.push_back(cat(path, " (", to_string(spec), ")"));
  const QuantSpec top = config_.quantization.top_level();
  note(config_.path.string(), "bits and group of ", names.size(), " modules are taken from their shapes: ",
       config_.quantization.present() ? cat("'quantization' does not name them and says ", to_string(top))
                                      : std::string("there is no 'quantization'"),
       ": ", list_names(names));
}

HostWeight Checkpoint::matrix(const std::string& path, int out, int in) { return stored(path, {uint64_t(out)}, in); }

HostWeight Checkpoint::experts(const std::string& path, int experts, int out, int in) {
  const std::string name = full(path);
  if (!find(name + ".weight")) {
    if (const auto stack = blocks(name, experts, out, in)) return *stack;
    if (const auto stack = fused(name, experts, out, in)) return *stack;
  }
  HostWeight stack = stored(path, {uint64_t(experts), uint64_t(out)}, in);
  stack.experts = experts;
  return stack;
}

/// A tensor of floats.
Checkpoint::Found Checkpoint::dense(const std::string& name) const {
  const Found found = find(name);
  if (!found) throw Error(ErrorCode::bad_file, directory_.string(), cat("missing tensor ", in_quotes(name)));
  const TensorEntry& t = *found.tensor;
  if (!is_float(t.dtype)) {
    throw Error(ErrorCode::unsupported, found.file->where(),
                cat("tensor ", in_quotes(name), ": expected f32, f16 or bf16, got ", to_string(t.dtype)));
  }
  return found;
}

HostWeight Checkpoint::depthwise(const std::string& short_name, int cols, int kernel, bool& by_torch) {
  const std::string name = full(short_name);
  const Found found = dense(name);
  const TensorEntry& t = *found.tensor;
  const uint64_t c = uint64_t(cols), k = uint64_t(kernel);
  by_torch = t.shape == std::vector<uint64_t>{c, 1, k};
  if (!by_torch && t.shape != std::vector<uint64_t>{c, k, 1}) {
    throw Error(ErrorCode::bad_file, found.file->where(),
                cat("tensor ", in_quotes(name), ": expected [", cols, ", ", kernel, ", 1] or [", cols, ", 1, ", kernel,
                    "], got ", shape_text(t.shape)));
  }
  claimed_.insert(name);
  return {Format::dense(t.dtype), cols, kernel, found.bytes(), {}, {}, name, keep_};
}

HostWeight Checkpoint::vector(const std::string& name, int size) { return floats(name, {uint64_t(size)}); }

HostWeight Checkpoint::vectors(const std::string& name, int count, int size) {
  if (!find(full(name))) {
    if (const auto biases = block_biases(full(name), count, size)) return *biases;
  }
  return floats(name, {uint64_t(count), uint64_t(size)});
}

HostWeight Checkpoint::floats(const std::string& short_name, const std::vector<uint64_t>& shape) {
  const std::string name = full(short_name);
  const Found found = dense(name);
  const TensorEntry& t = *found.tensor;
  if (t.shape != shape) {
    throw Error(ErrorCode::bad_file, found.file->where(),
                cat("tensor ", in_quotes(name), ": expected ", shape_text(shape), ", got ", shape_text(t.shape)));
  }
  claimed_.insert(name);
  uint64_t count = 1;
  for (const uint64_t dim : shape) count *= dim;
  return {Format::dense(t.dtype), 1, int(count), found.bytes(), {}, {}, name, keep_};
}

void Checkpoint::set_inputs(const std::map<std::string, int>& inputs) {
  for (const auto& [path, in] : inputs) inputs_[full(path)] = in;
}

uint64_t Checkpoint::file_bytes() const {
  uint64_t total = 0;
  for (const auto& file : files_) total += file->file_bytes();
  return total;
}

uint64_t Checkpoint::parameters() const {
  uint64_t total = 0;
  for (const StoredModule& module : modules()) {
    uint64_t count = 1;
    for (const uint64_t dim : module.shape) count *= dim;
    total += count;
  }
  return total;
}

}  // namespace bumblebee
