// Finding a directory's files; then matching each module's tensors with the config, with both named where they
// disagree.
#include "io/checkpoint.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mapped_file.h"
#include "io/quote.h"
#include "quant/affine.h"

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

/// Width and group of a module with `in` inputs, as its tensors have them. `fail(code, what)` throws.
template <class Fail>
AffineSpec spec_by_shapes(const TensorEntry& weight, const TensorEntry& scales, uint64_t in, const Fail& fail) {
  const uint64_t words = weight.shape.back(), groups = scales.shape.back();
  const uint64_t bits = words < in ? words * 32 / in : 32, group = groups > 0 ? in / groups : 0;
  const bool whole = words < in && bits * in == words * 32 && group * groups == in;
  if (!whole || !affine_bits_ok(int(bits)) || group > 128 || !affine_group_ok(int(group))) {
    fail(ErrorCode::bad_file,
         cat("weight ", shape_text(weight.shape), " and scales ", shape_text(scales.shape), " with ", in,
             " inputs: expected 2, 3, 4, 5, 6 or 8 bits and groups of 32, 64 or 128, got ",
             double(words) * 32 / double(in), " bits and groups of ",
             groups == 0 ? std::string("nothing") : cat(double(in) / double(groups))));
  }
  return {int(bits), int(group)};
}

/// The head's module or one of its tensors, outside any packaging.
bool is_head(std::string_view name) {
  return name.starts_with(kHead) && (name.size() == kHead.size() || name[kHead.size()] == '.');
}

std::string mode_by_shape(const TensorEntry& weight, const TensorEntry& scales) {
  const uint64_t columns = weight.shape.empty() ? 0 : weight.shape.back(),
                 groups = scales.shape.empty() ? 0 : scales.shape.back();
  if (groups == 0) return "mxfp4, mxfp8 or nvfp4";
  switch (columns * 32 / groups) {  // bits times group
    case 4 * 32: return "mxfp4";
    case 8 * 32: return "mxfp8";
    case 4 * 16: return "nvfp4";
    default: return "mxfp4, mxfp8 or nvfp4";
  }
}

}  // namespace

bool is_beside_text(std::string_view name) {
  for (const char* part : {"mtp.", "vision_tower.", "vision_model.", "visual.", "multi_modal_projector.",
                           "mm_projector.", "audio_tower.", "embed_vision.", "embed_audio."}) {
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
  for (const auto& [path, spec] : by_shapes_)
    names.push_back(cat(path, " (", spec.bits, "-bit group ", spec.group, ")"));
  const AffineSpec top = config_.quantization.top_level();
  note(config_.path.string(), "bits and group of ", names.size(), " modules are taken from their shapes: ",
       config_.quantization.present()
           ? cat("'quantization' does not name them and says ", top.bits, "-bit group ", top.group)
           : std::string("there is no 'quantization'"),
       ": ", list_names(names));
}

std::optional<Format> Checkpoint::quantized_format(const std::string& path) const {
  const Found weight = find(path + ".weight"), scales = find(path + ".scales"), biases = find(path + ".biases");
  if (!weight)
    throw Error(ErrorCode::bad_file, directory_.string(), cat("missing tensor ", in_quotes(path + ".weight")));
  const auto fail = [&](ErrorCode code, const std::string& what) {
    throw Error(code, weight.file->where(), cat("module ", in_quotes(path), ": ", what));
  };
  const auto rule = this->rule(path);
  using Says = QuantizationConfig::Says;
  if (!scales) {
    if (weight.tensor->dtype == DType::u32)
      fail(ErrorCode::bad_file, cat("packed weight (u32) without tensor ", in_quotes(path + ".scales")));
    if (biases)
      fail(ErrorCode::bad_file, cat("tensor ", in_quotes(path + ".biases"), " without ", in_quotes(path + ".scales")));
    if (rule.says == Says::quantized) {
      fail(ErrorCode::bad_file, cat("config.json says ", rule.spec.bits, "-bit group ", rule.spec.group,
                                    ", but tensor ", in_quotes(path + ".scales"), " is missing"));
    }
    return std::nullopt;
  }
  const TensorEntry &w = *weight.tensor, &s = *scales.tensor;
  if (s.dtype == DType::u8 || s.dtype == DType::f8_e8m0 || s.dtype == DType::f8_e4m3) {
    fail(ErrorCode::unsupported, cat("scales of type ", to_string(s.dtype), " mean quantization mode ",
                                     mode_by_shape(w, s), ", which is not supported: expected affine"));
  }
  if (!is_float(s.dtype)) fail(ErrorCode::bad_file, cat("scales: expected f32, f16 or bf16, got ", to_string(s.dtype)));
  if (w.dtype != DType::u32)
    fail(ErrorCode::bad_file, cat("weight beside scales: expected u32, got ", to_string(w.dtype)));
  if (!biases)
    fail(ErrorCode::bad_file, cat("missing tensor ", in_quotes(path + ".biases"), ": affine quantization has one"));
  const TensorEntry& b = *biases.tensor;
  if (!is_float(b.dtype)) fail(ErrorCode::bad_file, cat("biases: expected f32, f16 or bf16, got ", to_string(b.dtype)));
  if (s.shape != b.shape)
    fail(ErrorCode::bad_file,
         cat("biases: expected the shape of scales ", shape_text(s.shape), ", got ", shape_text(b.shape)));
  if (w.shape.size() < 2 || w.shape.size() != s.shape.size() ||
      !std::equal(w.shape.begin(), w.shape.end() - 1, s.shape.begin())) {
    fail(ErrorCode::bad_file, cat("weight ", shape_text(w.shape), " and scales ", shape_text(s.shape),
                                  ": expected equal leading dimensions"));
  }
  if (rule.says == Says::dense) fail(ErrorCode::bad_config, "has scales, but config.json's quantization says false");
  const auto known = inputs_.find(path);
  if (known != inputs_.end() && rule.says != Says::quantized) {
    const AffineSpec spec = spec_by_shapes(w, s, uint64_t(known->second), fail);
    if (rule.says == Says::nothing || spec != rule.spec) by_shapes_[path] = spec;
    return Format::affine(spec.bits, spec.group, s.dtype, b.dtype);
  }
  if (rule.says == Says::nothing) {
    fail(ErrorCode::bad_config,
         "has scales, but config.json has no 'quantization', and how many inputs it has is not known here: bits and "
         "group cannot be told from its shapes");
  }
  const auto stream = checked_mul(w.shape.back(), 32);
  const auto wanted = checked_mul(s.shape.back(), uint64_t(rule.spec.bits) * uint64_t(rule.spec.group));
  if (!stream || !wanted || *stream != *wanted || s.shape.back() == 0) {
    fail(ErrorCode::bad_config,
         cat("config.json says ", rule.spec.bits, "-bit group ", rule.spec.group, " (bits times group ",
             rule.spec.bits * rule.spec.group, "), but weight ", shape_text(w.shape), " and scales ",
             shape_text(s.shape), " give ",
             s.shape.back() == 0 ? std::string("nothing") : cat(double(w.shape.back()) * 32 / double(s.shape.back()))));
  }
  return Format::affine(rule.spec.bits, rule.spec.group, s.dtype, b.dtype);
}

HostWeight Checkpoint::matrix(const std::string& path, int out, int in) { return stored(path, {uint64_t(out)}, in); }

HostWeight Checkpoint::experts(const std::string& path, int experts, int out, int in) {
  HostWeight stack = stored(path, {uint64_t(experts), uint64_t(out)}, in);
  stack.experts = experts;
  return stack;
}

/// A module [leading..., in], dense or quantized.
HostWeight Checkpoint::stored(const std::string& path, const std::vector<uint64_t>& leading, int in) {
  const std::string name = full(path);
  const Found weight = find(name + ".weight");
  inputs_[name] = in;
  const auto format = quantized_format(name);
  const TensorEntry& w = *weight.tensor;
  std::vector<uint64_t> wanted = leading;
  wanted.push_back(uint64_t(in));
  HostWeight result{Format::dense(w.dtype), int(leading.back()), in, weight.bytes(), {}, {}, name, keep_};
  if (!format) {
    if (!is_float(w.dtype)) {
      throw Error(ErrorCode::unsupported, weight.file->where(),
                  cat("tensor ", in_quotes(w.name), ": expected f32, f16 or bf16, got ", to_string(w.dtype)));
    }
    if (w.shape != wanted) {
      throw Error(ErrorCode::bad_file, weight.file->where(),
                  cat("tensor ", in_quotes(w.name), ": expected ", shape_text(wanted), ", got ", shape_text(w.shape)));
    }
  } else {
    const Found scales = find(name + ".scales"), biases = find(name + ".biases");
    const TensorEntry& s = *scales.tensor;
    const uint64_t columns = s.shape.back() * format->group;  // fits: bounded by the file's bytes
    const bool same = w.shape.size() == wanted.size() && std::equal(leading.begin(), leading.end(), w.shape.begin());
    if (!same || columns != uint64_t(in)) {
      throw Error(
          ErrorCode::bad_file, weight.file->where(),
          cat("module ", in_quotes(name), ": expected ", shape_text(wanted), ", got weight ", shape_text(w.shape),
              " and scales ", shape_text(s.shape), ", that is ", to_string(*format), " with ", columns, " inputs"));
    }
    result.format = *format;
    result.scales = scales.bytes();
    result.biases = biases.bytes();
    claimed_.insert({name + ".scales", name + ".biases"});
  }
  claimed_.insert(name + ".weight");
  return result;
}

HostWeight Checkpoint::vector(const std::string& short_name, int size) {
  const std::string name = full(short_name);
  const Found found = find(name);
  if (!found) throw Error(ErrorCode::bad_file, directory_.string(), cat("missing tensor ", in_quotes(name)));
  const TensorEntry& t = *found.tensor;
  if (!is_float(t.dtype)) {
    throw Error(ErrorCode::unsupported, found.file->where(),
                cat("tensor ", in_quotes(name), ": expected f32, f16 or bf16, got ", to_string(t.dtype)));
  }
  if (t.shape.size() != 1 || t.shape[0] != uint64_t(size)) {
    throw Error(ErrorCode::bad_file, found.file->where(),
                cat("tensor ", in_quotes(name), ": expected [", size, "], got ", shape_text(t.shape)));
  }
  claimed_.insert(name);
  return {Format::dense(t.dtype), 1, size, found.bytes(), {}, {}, name, keep_};
}

void Checkpoint::set_inputs(const std::map<std::string, int>& inputs) {
  for (const auto& [path, in] : inputs) inputs_[full(path)] = in;
}

std::vector<StoredModule> Checkpoint::modules() const {
  std::vector<StoredModule> result;
  for (const auto& [name, found] : tensors_) {
    const size_t dot = name.rfind('.');
    const std::string path = name.substr(0, dot == std::string::npos ? 0 : dot);
    const bool in_module = dot != std::string::npos && bool(find(path + ".scales")) && bool(find(path + ".weight"));
    const std::string leaf = name.substr(path.size());
    if (in_module && (leaf == ".scales" || leaf == ".biases")) continue;
    StoredModule info{name, Format::dense(found.tensor->dtype), found.tensor->shape, found.bytes().size()};
    if (in_module && leaf == ".weight") {
      info.name = path;
      info.format = *quantized_format(path);
      const Found scales = find(path + ".scales"), biases = find(path + ".biases");
      info.shape.back() = scales.tensor->shape.back() * info.format.group;
      info.bytes += scales.bytes().size() + biases.bytes().size();
    }
    result.push_back(std::move(info));
  }
  return result;
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
