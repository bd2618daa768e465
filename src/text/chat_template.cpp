// ChatTemplate over the C ABI of hf/: which template is meant, limits, and spans of guarded content.
#include "text/chat_template.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "rust/bridge.h"

namespace bumblebee::txt {

namespace {

struct FreeTemplate {
  void operator()(BbTemplate* raw) const { bb_template_free(raw); }
};

std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::vector<std::string> control_tokens(const Tokenizer& tokenizer) {
  std::vector<std::string> tokens;
  for (const AddedToken& token : tokenizer.added_tokens()) {
    if (token.special) tokens.push_back(token.text);
  }
  return tokens;
}

/// An absent list and an empty one mean the same to a user, and transformers callers pass None for both.
bool has_tools(std::string_view tools_json) {
  const size_t first = tools_json.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || tools_json.substr(first).starts_with("null")) return false;
  const size_t second = tools_json.find_first_not_of(" \t\r\n", first + 1);
  return !(tools_json[first] == '[' && second != std::string_view::npos && tools_json[second] == ']');
}

}  // namespace

struct ChatTemplate::Impl {
  struct Named {
    std::string name;
    std::string source;
    std::unique_ptr<BbTemplate, FreeTemplate> raw;
  };
  std::vector<Named> templates;
  std::string named_json;
  TemplateLimits limits;

  const Named* find(std::string_view name) const {
    const auto found = std::find_if(templates.begin(), templates.end(), [&](const Named& t) { return t.name == name; });
    return found == templates.end() ? nullptr : &*found;
  }

  const Named& require(std::string_view name) const {
    if (const Named* found = find(name)) return *found;
    std::string known;
    for (const Named& entry : templates) known += (known.empty() ? "" : ", ") + entry.name;
    throw Error(ErrorCode::bad_request, "chat template", cat("name: expected one of ", known, ", got \"", name, "\""));
  }
};

ChatTemplate ChatTemplate::from_parts(std::vector<std::pair<std::string, std::string>> templates,
                                      std::vector<std::pair<std::string, std::string>> named_tokens,
                                      std::vector<std::string> control, const TemplateLimits& limits) {
  if (templates.empty()) {
    throw Error(
        ErrorCode::unsupported, "chat template",
        "expected chat_template.jinja or tokenizer_config.json:chat_template, got neither: this is a base model or a "
        "sidecar file is missing");
  }
  auto impl = std::make_shared<Impl>();
  impl->limits = limits;
  OrderedJson named = OrderedJson::object();
  for (const auto& [name, text] : named_tokens) named[name] = text;
  impl->named_json = named.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  const std::string control_json = dump(Json(control));
  const BbTemplateLimits raw_limits = {limits.steps, limits.output_bytes,
                                       static_cast<size_t>(std::max(limits.recursion, 1)),
                                       static_cast<size_t>(std::max(limits.json_depth, 1))};
  for (auto& [name, source] : templates) {
    const std::string where = "chat template " + name;
    if (source.size() > limits.source_bytes) {
      throw Error(ErrorCode::bad_file, where,
                  cat("source size: expected at most ", limits.source_bytes, " bytes, got ", source.size()));
    }
    BbTemplate* raw = nullptr;
    rust::Bytes error;
    rust::check(bb_template_new(rust::view(source), rust::view(control_json), raw_limits, &raw, error.out()), error,
                where);
    impl->templates.push_back({name, std::move(source), std::unique_ptr<BbTemplate, FreeTemplate>(raw)});
  }
  return ChatTemplate(std::move(impl));
}

ChatTemplate ChatTemplate::from_tokenizer(const Tokenizer& tokenizer, const TemplateLimits& limits) {
  const TokenizerConfig& config = tokenizer.config();
  return from_parts(config.chat_templates, config.named_tokens, control_tokens(tokenizer), limits);
}

ChatTemplate ChatTemplate::from_source(std::string_view source, const Tokenizer& tokenizer,
                                       const TemplateLimits& limits) {
  return from_parts({{"default", std::string(source)}}, tokenizer.config().named_tokens, control_tokens(tokenizer),
                    limits);
}

RenderedPrompt ChatTemplate::render(const RenderRequest& request) const {
  const bool tools = has_tools(request.tools_json);
  const bool use_tools = request.template_name.empty() && tools && impl_->find("tool_use") != nullptr;
  const std::string_view name = !request.template_name.empty() ? request.template_name
                                : use_tools                    ? "tool_use"
                                                               : "default";
  const Impl::Named& chosen = impl_->require(name);
  const std::string where = "chat template " + chosen.name;
  const size_t input = request.messages_json.size() + request.tools_json.size() + request.kwargs_json.size();
  if (input > impl_->limits.input_bytes) {
    throw Error(ErrorCode::bad_request, where,
                cat("input budget: expected at most ", impl_->limits.input_bytes,
                    " bytes of messages, tools and arguments, got ", input));
  }
  BbRenderRequest raw = {};
  raw.messages_json = rust::view(request.messages_json);
  raw.tools_json = rust::view(tools ? request.tools_json : std::string_view());
  raw.kwargs_json = rust::view(request.kwargs_json);
  raw.named_json = rust::view(impl_->named_json);
  raw.add_generation_prompt = request.add_generation_prompt ? 1 : 0;
  raw.trust_content = request.trust_content ? 1 : 0;
  raw.now = request.now;
  rust::Bytes text;
  rust::Spans guards;
  rust::Bytes error;
  rust::check(bb_template_render(chosen.raw.get(), &raw, text.out(), guards.out(), error.out()), error, where);
  RenderedPrompt prompt{text.str(), {}};
  for (const BbSpan& span : guards.values()) prompt.guarded.push_back({span.begin, span.end});
  return prompt;
}

RenderedPrompt ChatTemplate::render(std::string_view messages_json, std::string_view tools_json,
                                    std::string_view kwargs_json, bool add_generation_prompt) const {
  return render(RenderRequest{.messages_json = messages_json,
                              .tools_json = tools_json,
                              .kwargs_json = kwargs_json,
                              .add_generation_prompt = add_generation_prompt});
}

std::vector<std::string> ChatTemplate::names() const {
  std::vector<std::string> names;
  for (const Impl::Named& entry : impl_->templates) names.push_back(entry.name);
  return names;
}

bool ChatTemplate::uses_clock() const {
  return std::any_of(impl_->templates.begin(), impl_->templates.end(),
                     [](const Impl::Named& one) { return one.source.find("strftime_now") != std::string::npos; });
}

const std::string& ChatTemplate::source(std::string_view name) const { return impl_->require(name).source; }

}  // namespace bumblebee::txt
