// The values that the program prints, as the JSON library's.
#include "ui/json_out.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "ui/terminal.h"

namespace bumblebee::cli {

struct OutJson::Value {
  nlohmann::ordered_json json;
};

OutJson::OutJson(Value value) : value_(std::make_unique<Value>(std::move(value))) {}
OutJson::OutJson(std::nullptr_t) : OutJson(Value{nullptr}) {}
OutJson::OutJson(const char* text) : OutJson(Value{text}) {}
OutJson::OutJson(const std::string& text) : OutJson(Value{text}) {}
OutJson::OutJson(std::string_view text) : OutJson(Value{text}) {}
OutJson::OutJson(Boolean value) : OutJson(Value{value.value}) {}
OutJson::OutJson(Signed value) : OutJson(Value{value.value}) {}
OutJson::OutJson(Unsigned value) : OutJson(Value{value.value}) {}
OutJson::OutJson(Real value) : OutJson(Value{value.value}) {}
OutJson::OutJson(const OutJson& other) : OutJson(*other.value_) {}
OutJson::OutJson(OutJson&& other) noexcept = default;
OutJson& OutJson::operator=(OutJson other) noexcept {
  value_ = std::move(other.value_);
  return *this;
}
OutJson::~OutJson() = default;

OutJson::OutJson(std::initializer_list<OutJson> values) : OutJson(array()) {
  const auto is_pair = [](const OutJson& one) {
    const nlohmann::ordered_json& json = one.value_->json;
    return json.is_array() && json.size() == 2 && json[0].is_string();
  };
  if (std::all_of(values.begin(), values.end(), is_pair)) {
    value_->json = nlohmann::ordered_json::object();
    for (const OutJson& one : values) {
      // The first of equal keys stays, as the library has it.
      value_->json.emplace(one.value_->json[0].get<std::string>(), nlohmann::ordered_json(one.value_->json[1]));
    }
  } else {
    for (const OutJson& one : values) value_->json.push_back(one.value_->json);
  }
}

OutJson OutJson::array() { return OutJson(Value{nlohmann::ordered_json::array()}); }
OutJson OutJson::parse(const std::string& text) {
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(text, nullptr, false);
  return OutJson(Value{json.is_discarded() ? nlohmann::ordered_json(nullptr) : std::move(json)});
}
OutJson OutJson::object() { return OutJson(Value{nlohmann::ordered_json::object()}); }

void OutJson::push_back(OutJson value) { value_->json.push_back(std::move(value.value_->json)); }
void OutJson::set(const std::string& key, OutJson value) { value_->json[key] = std::move(value.value_->json); }

bool OutJson::empty() const { return value_->json.empty(); }
bool OutJson::is_null() const { return value_->json.is_null(); }
bool OutJson::is_array() const { return value_->json.is_array(); }
bool OutJson::is_string() const { return value_->json.is_string(); }
OutJson OutJson::at(const std::string& key) const { return OutJson(Value{value_->json.at(key)}); }
std::string OutJson::text() const { return value_->json.get<std::string>(); }
double OutJson::number() const { return value_->json.get<double>(); }

std::vector<OutJson> OutJson::elements() const {
  std::vector<OutJson> out;
  for (const auto& one : value_->json) out.push_back(OutJson(Value{one}));
  return out;
}

std::vector<std::pair<std::string, OutJson>> OutJson::items() const {
  std::vector<std::pair<std::string, OutJson>> out;
  for (const auto& [key, value] : value_->json.items()) out.emplace_back(key, OutJson(Value{value}));
  return out;
}

std::string OutJson::dump(int indent) const {
  return value_->json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void print_json(const OutJson& value) { write_out(value.dump() + "\n"); }

}  // namespace bumblebee::cli
