// What the two writers share. Internal to this layer.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "lora/write_adapter.h"

namespace bumblebee::lora {

/// Throws Error(unsupported) naming the adapter's file and the module.
[[noreturn]] void cannot_write(const Adapter& adapter, const std::string& path, std::string_view what);

bool is_embedding(std::string_view path);

/// Which modules lie in which layers, as both configs describe them.
struct Layout {
  std::set<std::string> outside;                // whole paths of modules in no layer
  std::map<int, std::set<std::string>> layers;  // layer -> paths inside it
  std::set<std::string> inside;                 // the union of them
  int first = 0, last = -1;

  static Layout of(const Adapter& adapter);
  /// Every layer from first to last has the same modules.
  bool uniform() const;
};

/// The value that most low-rank parts have.
template <class T, class Get>
T most_common(const Adapter& adapter, const Get& get) {
  std::map<T, int> counts;
  for (const auto& [path, change] : adapter.modules) {
    if (change.low_rank) ++counts[get(*change.low_rank)];
  }
  T best{};
  int most = 0;
  for (const auto& [value, count] : counts) {
    if (count > most) {
      best = value;
      most = count;
    }
  }
  return best;
}

/// Tensors on their way to a file; holds the values.
class TensorWriter {
 public:
  void add(const std::string& name, std::vector<uint64_t> shape, std::vector<float> values) {
    values_.push_back({name, std::move(shape), std::move(values)});
  }
  void add(const std::string& name, const Matrix& matrix, bool as_vector = false);
  void write(const std::filesystem::path& path, const std::map<std::string, std::string>& metadata) const;

 private:
  struct Values {
    std::string name;
    std::vector<uint64_t> shape;
    std::vector<float> values;
  };
  std::vector<Values> values_;
};

/// What training dropped of A's inputs: a fact of the config that both formats have.
double dropout_of(const Adapter& adapter);
/// Ours, in both formats: without what it was trained on top of, an adapter is not what was trained.
void add_on_top_of(const Adapter& adapter, Json& config);

/// Sorted keys, indented; whole numbers without a point.
void write_adapter_config(const std::filesystem::path& directory, const Json& config);
Json number(double value);

std::vector<std::string> write_mlx(const Adapter& adapter, const std::filesystem::path& directory,
                                   const WriteOptions& options);
std::vector<std::string> write_peft(const Adapter& adapter, const std::filesystem::path& directory,
                                    const WriteOptions& options);

}  // namespace bumblebee::lora
