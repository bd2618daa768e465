// The adapters that requests name: by what name, which generation of it, and in what strength. A request keeps what it
// began with.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bumblebee/adapter.h"
#include "serve/openai/requests.h"

namespace bumblebee::serve {

struct ServedAdapter {
  std::string name;
  Adapter adapter;
  uint64_t generation = 0;  // each load has its own, of this server
  std::string source;       // as the request or the command line named it
  std::chrono::system_clock::time_point loaded;
};

/// From any thread.
class Adapters {
 public:
  Adapters(std::string base, int most) : base_(std::move(base)), most_(size_t(most)) {}

  /// 1 to 64 letters, digits and ._-
  static bool good_name(std::string_view name);

  struct Expected {
    bool in_place = false;                 // may replace one of this name
    std::optional<uint64_t> generation{};  // it must be this one
  };
  /// Throws the ApiError that put() would, before anything is read.
  void check(const std::string& name, const Expected& expected) const;
  /// Returns the generation. `replaced`: what had the name.
  uint64_t put(const std::string& name, Adapter adapter, std::string source, const Expected& expected,
               std::shared_ptr<const ServedAdapter>* replaced = nullptr);
  std::shared_ptr<const ServedAdapter> remove(const std::string& name, std::optional<uint64_t> generation);

  std::shared_ptr<const ServedAdapter> find(std::string_view name) const;
  std::vector<std::shared_ptr<const ServedAdapter>> list() const;  // by name
  const std::string& base() const { return base_; }
  /// The base's own name, or "default" or mlx-lm's word for it, which are always its own too: else a load would give
  /// others' requests another model.
  bool is_base(std::string_view name) const { return name == base_ || name == "default" || name == "default_model"; }

  /// What a request asks for.
  struct Choice {
    std::string label;  // "base", or the names: for logs
    std::vector<WeightedAdapter> adapters;
  };
  /// `model` is the base (also as "default" or "default_model", or not said), an adapter, or base:adapter; `adapter`
  /// and `parts` name adapters too, beside the base only. Throws ApiError.
  Choice choose(std::string_view model, std::string_view adapter, std::span<const LoraPart> parts) const;
  /// The names that `model` may be, for the message that one is unknown.
  std::string names() const;

 private:
  std::string adapter_names() const;  // a sentence
  void check_locked(const std::string& name, const Expected& expected) const;

  const std::string base_;
  const size_t most_;
  mutable std::mutex mutex_;
  uint64_t generations_ = 0;
  std::map<std::string, std::shared_ptr<const ServedAdapter>, std::less<>> adapters_;
};

/// GET /v1/lora_adapters.
std::string adapters_answer(const Adapters& adapters);

}  // namespace bumblebee::serve
