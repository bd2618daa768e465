// A YAML mapping read key by key: every key must be asked for, values have types, and what is wrong is named with its
// line.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bumblebee/error.h"
#include "options/nearest.h"

namespace bumblebee::cli {

class YamlMap {
 public:
  /// `name` is the key that the mapping stands under, empty for the whole file. Throws Error(bad_config) when `node` is
  /// no mapping. Of a key that stands there twice the last value counts, as in Python, and a note says so.
  YamlMap(const YAML::Node& node, std::string where, std::string name, std::vector<std::string>& notes)
      : where_(std::move(where)), name_(std::move(name)) {
    if (!node.IsMap()) fail(node, "expected a mapping of keys to values");
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) fail(entry.first, "expected a key that is a word");
      const auto [value, fresh] = values_.try_emplace(entry.first.Scalar(), entry.second);
      if (fresh) continue;
      notes.push_back(at(entry.first) + ": the key '" + path(entry.first.Scalar()) + "' again; the last value counts");
      value->second.reset(entry.second);
    }
  }

  bool has(const std::string& key) const {
    const auto found = values_.find(key);
    return found != values_.end() && !found->second.IsNull();
  }

  /// Calls use(node) when the key is there and is not null; either way the key is known then.
  template <class Use>
  void on(const std::string& key, Use&& use) {
    known_.push_back(key);
    const auto found = values_.find(key);
    if (found == values_.end()) return;
    const YAML::Node node = found->second;
    values_.erase(found);
    if (!node.IsNull()) use(node);
  }

  template <class T>
  void read(const std::string& key, T& value) {
    on(key, [&](const YAML::Node& node) { value = as<T>(node, key); });
  }
  template <class T>
  void read(const std::string& key, std::optional<T>& value) {
    on(key, [&](const YAML::Node& node) { value = as<T>(node, key); });
  }

  void integer(const std::string& key, int& value, int64_t low, int64_t high) {
    on(key, [&](const YAML::Node& node) {
      const auto got = as<int64_t>(node, key);
      if (got < low || got > high) {
        fail(node, "'" + path(key) + "': expected an integer from " + std::to_string(low) + " to " +
                       std::to_string(high) + ", got " + node.Scalar());
      }
      value = int(got);
    });
  }

  /// A word, or words in a list.
  std::vector<std::string> words(const YAML::Node& node, const std::string& key) const {
    std::vector<std::string> out;
    if (node.IsScalar()) return {node.Scalar()};
    if (!node.IsSequence()) fail(node, "'" + path(key) + "': expected a list of words");
    for (const YAML::Node& item : node) out.push_back(as<std::string>(item, key));
    return out;
  }

  std::vector<double> numbers(const YAML::Node& node, const std::string& key) const {
    std::vector<double> out;
    if (!node.IsSequence()) fail(node, "'" + path(key) + "': expected a list of numbers");
    for (const YAML::Node& item : node) out.push_back(as<double>(item, key));
    return out;
  }

  template <class T>
  T as(const YAML::Node& node, const std::string& key) const {
    try {
      if (node.IsScalar()) {
        const T value = node.as<T>();
        if constexpr (std::is_floating_point_v<T>) {
          if (!std::isfinite(value)) fail(node, "'" + path(key) + "': expected a finite number, got " + node.Scalar());
        }
        return value;
      }
    } catch (const YAML::BadConversion&) {
      // Reported below, with the line.
    }
    fail(node, "'" + path(key) + "': expected " + kind<T>() + ", got " +
                   (node.IsScalar() ? "'" + node.Scalar().substr(0, 60) + "'" : "a list or mapping"));
  }

  /// Throws Error(bad_config) naming keys that were not asked for. `hint` may say more about one of them.
  void finish(const std::map<std::string, std::string>& hints = {}) const {
    if (values_.empty()) return;
    const auto& [key, node] = *values_.begin();
    const std::string name = key.substr(0, 80), near = nearest(name, known_);
    const auto hint = hints.find(key);
    fail(node, "unknown key '" + path(name) + "'" +
                   (hint != hints.end() ? ": " + hint->second
                    : near.empty()      ? ""
                                        : "; did you mean '" + near + "'?"));
  }

  std::string path(const std::string& key) const { return name_.empty() ? key : name_ + "." + key; }
  std::string at(const YAML::Node& node) const {
    const int line = node.Mark().line;  // from 0; -1 for what is not in the file
    return line < 0 ? where_ : where_ + ":" + std::to_string(line + 1);
  }
  [[noreturn]] void fail(const YAML::Node& node, const std::string& what) const {
    throw Error(ErrorCode::bad_config, at(node), what);
  }
  const std::string& where() const { return where_; }

 private:
  template <class T>
  static std::string kind() {
    if constexpr (std::is_same_v<T, bool>) return "true or false";
    if constexpr (std::is_floating_point_v<T>) return "a number";
    if constexpr (std::is_integral_v<T>) return "an integer";
    return "a word";
  }

  std::string where_, name_;
  std::map<std::string, YAML::Node> values_;
  std::vector<std::string> known_;  // keys that were asked for
};

}  // namespace bumblebee::cli
