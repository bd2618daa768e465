// One table row per module of a layer, with the size of its change in every layer as a sparkline.
#include "commands/adapter_info.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "lora/dense.h"
#include "lora/expert_paths.h"
#include "lora/read_adapter.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct Row {
  std::map<int, double> sizes;  // layer -> Frobenius norm of the change; -1 for a module outside the layers
};

double size_of_change(const lora::ModuleDelta& change) {
  return change.low_rank ? lora::delta_norm(*change.low_rank) : 0;
}

std::string parts_of(const lora::ModuleDelta& change) {
  std::string text;
  const auto add = [&text](const char* part) { text += (text.empty() ? "" : " + ") + std::string(part); };
  if (change.low_rank) add(change.low_rank->magnitude.empty() ? "factors" : "factors and magnitude");
  if (change.low_rank && !change.low_rank->b_bias.empty()) add("bias of B");
  if (change.weight) add("whole weight");
  if (change.bias) add("bias");
  return text;
}

/// "1.5", or "0.5 to 3 (most 1.5)".
template <class T>
std::string range_text(const std::vector<T>& values) {
  if (values.empty()) return "none";
  std::map<T, int> counts;
  for (const T value : values) ++counts[value];
  if (counts.size() == 1) return fmt::format("{:.7g}", double(values.front()));
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return fmt::format("{:.7g} to {:.7g} (most {:.7g})", double(counts.begin()->first), double(counts.rbegin()->first),
                     double(most->first));
}

/// One block per layer from 0 to `last`, its height in eighths of `largest`; '.' where the layer has no such module, 0
/// where it has one that does nothing.
std::string sparkline(const Row& row, int last, double largest) {
  static constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string line;
  for (int layer = 0; layer <= last; ++layer) {
    const auto it = row.sizes.find(layer);
    if (it == row.sizes.end()) {
      line += ".";
    } else {
      if (it->second == 0) {
        line += "0";
        continue;
      }
      const double height = largest > 0 ? it->second / largest * 8 : 0;
      line += kBlocks[std::clamp(int(std::ceil(height)) - 1, 0, 7)];
    }
  }
  return line;
}

std::string layers_text(const std::set<int>& layers) {
  std::string text;
  for (auto it = layers.begin(); it != layers.end();) {
    auto last = it;
    while (std::next(last) != layers.end() && *std::next(last) == *last + 1) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(*it) + (last == it ? "" : "-" + std::to_string(*last));
    it = std::next(last);
  }
  return text.empty() ? "none" : text;
}

void line(const char* name, const std::string& value) { write_out(fmt::format("{:14} {}\n", name, value)); }

/// The path inside its layer; of a single expert with '#' for its number.
std::string name_in_layer(const std::string& path) {
  const std::string each = lora::expert_path(path).each;
  return std::string(lora::inside_layer(lora::stack_name(each).empty() ? path : each));
}

void print_table(const lora::Adapter& adapter) {
  std::map<std::string, Row> rows;
  int last = -1;
  double largest = 0;
  for (const auto& [path, change] : adapter.modules) {
    if (!change.low_rank) continue;
    const int layer = lora::layer_of(path);
    const double size = size_of_change(change);
    double& all = rows[name_in_layer(path)].sizes[layer];  // of experts that come one by one, together
    all = std::hypot(all, size);
    last = std::max(last, layer);
    if (layer >= 0) largest = std::max(largest, all);
  }
  if (rows.empty()) return;
  size_t width = 6;
  for (const auto& [name, row] : rows) width = std::max(width, name.size());
  write_out(fmt::format("\n{:{}} {:>10} {:>10} {:>10}{}\n", "change", width, "smallest", "mean", "largest",
                        last >= 0 ? fmt::format("  |scale·BA| in layers 0 to {}", last) : ""));
  for (const auto& [name, row] : rows) {
    double sum = 0, low = INFINITY, high = 0;
    for (const auto& [layer, size] : row.sizes) {
      sum += size;
      low = std::min(low, size);
      high = std::max(high, size);
    }
    write_out(fmt::format("{:{}} {:10.4g} {:10.4g} {:10.4g}{}\n", one_line(name), width, low,
                          sum / double(row.sizes.size()), high,
                          row.sizes.contains(-1) ? std::string() : "  " + sparkline(row, last, largest)));
  }
}

/// adapter_training.json, which `train` leaves; null where there is none that can be read.
OutJson training_record(const std::filesystem::path& directory) {
  std::ifstream file(directory / "adapter_training.json", std::ios::binary);
  return OutJson::parse({std::istreambuf_iterator<char>(file), {}});
}

void print_training(const OutJson& record) {
  try {
    const OutJson metrics = record.at("metrics"), rows = record.at("data").at("train"), base = record.at("base");
    line("trained by", fmt::format("{}, {:.0f} iterations", one_line(record.at("program").text()),
                                   metrics.at("iterations").number()));
    line("data", fmt::format("{}: {:.0f} rows, hash {:.12}", one_line(record.at("data").at("directory").text()),
                             rows.at("rows").number(), rows.at("hash").text()));
    if (base.at("hash").is_string()) line("base's hash", base.at("hash").text().substr(0, 12));
    if (!metrics.at("first_val_loss").is_null() && !metrics.at("val_loss").is_null())
      line("validation", fmt::format("{:.3f} at the start, {:.3f} here", metrics.at("first_val_loss").number(),
                                     metrics.at("val_loss").number()));
  } catch (const std::exception&) {
    line("trained by", "adapter_training.json is not as train writes it");
  }
}

void print_as_text(const lora::Adapter& adapter, const std::string& name, uint64_t bytes, const OutJson& record,
                   bool every) {
  std::vector<int> ranks;
  std::vector<float> scales;
  std::set<int> layers;
  std::set<std::string> targets, outside;
  std::map<std::string, int> parts;
  for (const auto& [path, change] : adapter.modules) {
    if (change.low_rank) {
      ranks.push_back(change.low_rank->rank());
      scales.push_back(change.low_rank->scale);
    }
    const int layer = lora::layer_of(path);
    if (layer >= 0) layers.insert(layer);
    (layer >= 0 ? targets : outside).insert(name_in_layer(path));
    ++parts[parts_of(change)];
  }
  const auto list = [](const std::set<std::string>& names) {
    std::string text;
    for (const std::string& one : names) text += (text.empty() ? "" : ", ") + one_line(one);
    return text.empty() ? std::string("none") : text;
  };
  line("adapter", name);
  line("format", std::string(to_string(adapter.dialect)) + ", " + std::string(to_string(adapter.kind)));
  line("made for", adapter.base.empty() ? "not said" : one_line(adapter.base));
  line("rank", range_text(ranks));
  line("scale", range_text(scales) + (scales.empty() ? "" : ", as it multiplies B(A x)"));
  std::string facts;
  for (const auto& [key, value] : adapter.facts) facts += (facts.empty() ? "" : ", ") + key + " " + value;
  if (!facts.empty()) line("config", one_line(facts));
  line("layers", layers_text(layers));
  line("targets", list(targets));
  line("outside", list(outside));
  for (const auto& [what, count] : parts) line("modules", std::to_string(count) + " with " + what);
  line("size", human_bytes(double(bytes)) + " in f32");
  if (!record.is_null()) print_training(record);
  if (every) {
    for (const auto& [path, change] : adapter.modules) line("module", one_line(path) + ": " + parts_of(change));
  }
  print_table(adapter);
}

void print_as_json(const lora::Adapter& adapter, const std::string& name, uint64_t bytes, const OutJson& record) {
  OutJson modules = OutJson::array();
  for (const auto& [path, change] : adapter.modules) {
    OutJson module = {{"name", path}, {"layer", lora::layer_of(path)}};
    if (change.low_rank) {
      const lora::LowRank& low = *change.low_rank;
      module["out"] = low.out();
      if (low.experts > 0) module["experts"] = low.experts;
      module["in"] = low.a.cols;
      module["rank"] = low.rank();
      module["scale"] = low.scale;
      module["change"] = size_of_change(change);
      module["magnitude"] = !low.magnitude.empty();
      module["bias_of_b"] = !low.b_bias.empty();
    }
    module["weight"] = change.weight.has_value();
    module["bias"] = change.bias.has_value();
    modules.push_back(std::move(module));
  }
  OutJson config = OutJson::object();
  for (const auto& [key, value] : adapter.facts) config[key] = value;
  print_json({{"adapter", name},
              {"format", adapter.dialect == lora::Dialect::mlx ? "mlx" : "peft"},
              {"kind", std::string(to_string(adapter.kind))},
              {"base", adapter.base},
              {"config", config},
              {"bytes", bytes},
              {"training", record},
              {"modules", modules}});
}

}  // namespace

bool is_adapter(const std::filesystem::path& place) {
  std::error_code ignored;
  const bool is_file = std::filesystem::is_regular_file(place, ignored);
  if (is_file && place.extension() != ".safetensors") return false;
  const std::filesystem::path directory = is_file ? place.parent_path() : place;
  const auto has = [&](const char* file) { return std::filesystem::exists(directory / file, ignored); };
  // Some trainers leave a config.json of the base beside the adapter.
  if (has("model.safetensors") || has("model.safetensors.index.json")) return false;
  return has("adapter_config.json") || has("adapters.safetensors") || has("adapter_model.safetensors") ||
         has("adapter_model.bin") || has("adapters.npz");
}

void print_adapter(const std::filesystem::path& place, const std::string& name, const CommonFlags& common) {
  const lora::Adapter adapter = lora::read_adapter(place);
  std::error_code ignored;
  const OutJson record =
      training_record(std::filesystem::is_regular_file(place, ignored) ? place.parent_path() : place);
  if (common.json) {
    print_as_json(adapter, name, size_bytes(adapter), record);
  } else {
    print_as_text(adapter, name, size_bytes(adapter), record, common.verbose);
  }
}

}  // namespace bumblebee::cli
