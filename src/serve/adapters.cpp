// The list of adapters, and choosing from it.
#include "serve/adapters.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "serve/openai/errors.h"

namespace bumblebee::serve {

bool Adapters::good_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || std::string_view("._-").find(c) != std::string_view::npos;
  });
}

void Adapters::check_locked(const std::string& name, const Expected& expected) const {
  const auto found = adapters_.find(name);
  if (found == adapters_.end()) {
    if (is_base(name)) throw ApiError(Refusal::adapter_exists, cat("'", name, "' is the name of the base model"));
    if (expected.generation)
      throw ApiError(Refusal::generation_differs, cat("expected generation ", *expected.generation, " of '", name,
                                                      "', found no adapter of this name"));
    if (adapters_.size() >= most_)
      throw ApiError(Refusal::adapters_full, cat("expected at most ", most_, " adapters; unload one first"));
    return;
  }
  const uint64_t generation = found->second->generation;
  if (!expected.in_place)
    throw ApiError(Refusal::adapter_exists,
                   cat("an adapter '", name, "' is there, generation ", generation, "; load_inplace replaces it"));
  if (expected.generation && *expected.generation != generation)
    throw ApiError(Refusal::generation_differs,
                   cat("expected generation ", *expected.generation, " of '", name, "', found ", generation));
}

void Adapters::check(const std::string& name, const Expected& expected) const {
  const std::lock_guard lock(mutex_);
  check_locked(name, expected);
}

uint64_t Adapters::put(const std::string& name, Adapter adapter, std::string source, const Expected& expected,
                       std::shared_ptr<const ServedAdapter>* replaced) {
  const std::lock_guard lock(mutex_);
  check_locked(name, expected);
  auto fresh = std::make_shared<ServedAdapter>(
      ServedAdapter{name, std::move(adapter), generations_ + 1, std::move(source), std::chrono::system_clock::now()});
  std::shared_ptr<const ServedAdapter>& slot = adapters_[name];
  if (replaced) *replaced = slot;
  slot = std::move(fresh);
  return ++generations_;
}

std::shared_ptr<const ServedAdapter> Adapters::remove(const std::string& name, std::optional<uint64_t> generation) {
  const std::lock_guard lock(mutex_);
  const auto found = adapters_.find(name);
  if (found == adapters_.end())
    throw ApiError(Refusal::adapter_not_found, cat("there is no adapter '", name, "'"), "lora_name");
  if (generation && *generation != found->second->generation)
    throw ApiError(Refusal::generation_differs,
                   cat("expected generation ", *generation, " of '", name, "', found ", found->second->generation));
  std::shared_ptr<const ServedAdapter> gone = std::move(found->second);
  adapters_.erase(found);
  return gone;
}

std::shared_ptr<const ServedAdapter> Adapters::find(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = adapters_.find(name);
  return found == adapters_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<const ServedAdapter>> Adapters::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const ServedAdapter>> all;
  for (const auto& [name, adapter] : adapters_) all.push_back(adapter);
  return all;
}

Adapters::Choice Adapters::choose(std::string_view model, std::string_view adapter,
                                  std::span<const LoraPart> parts) const {
  const std::string prefix = base_ + ":";
  std::vector<LoraPart> wanted(parts.begin(), parts.end());
  if (!adapter.empty()) wanted.push_back({std::string(adapter), 1});
  const char* field = adapter.empty() ? "lora" : "adapter";
  if (!model.empty() && !is_base(model)) {
    const std::string name(model.starts_with(prefix) ? model.substr(prefix.size()) : model);
    if (!find(name))
      throw ApiError(Refusal::model_not_found,
                     cat("there is no model '", model.substr(0, 200), "'; there are ", names()), "model");
    if (!wanted.empty())
      throw ApiError(Refusal::invalid_value,
                     cat("expected the base model beside '", field, "', got the adapter '", name, "' as the model"),
                     field);
    wanted.push_back({name, 1});
    field = "model";
  }
  Choice choice;
  for (const LoraPart& part : wanted) {
    const std::shared_ptr<const ServedAdapter> one = find(part.name);
    if (!one)
      throw ApiError(Refusal::adapter_not_found, cat("there is no adapter '", part.name, "'; ", adapter_names()),
                     field);
    choice.adapters.emplace_back(one->adapter, part.scale);
    choice.label += (choice.label.empty() ? "" : "+") + one->name;
  }
  if (choice.label.empty()) choice.label = "base";
  return choice;
}

std::string Adapters::adapter_names() const {
  std::string text;
  for (const std::shared_ptr<const ServedAdapter>& one : list()) text += (text.empty() ? "'" : ", '") + one->name + "'";
  return text.empty() ? "none is loaded" : "there are " + text;
}

std::string Adapters::names() const {
  std::string text = "'" + base_ + "'";
  for (const std::shared_ptr<const ServedAdapter>& one : list()) text += ", '" + one->name + "'";
  return text;
}

}  // namespace bumblebee::serve
