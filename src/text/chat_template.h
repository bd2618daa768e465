// Chat templates (Jinja, as transformers sets it up) with budgets and origin tracking. A template is code from a
// stranger and a message is text from another: neither may hang the process, and a message may not become a control
// token. Rendering is minijinja's, in hf/; parsing of ids is tokenizer.h's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/rendered_prompt.h"
#include "text/tokenizer.h"

namespace bumblebee::txt {

/// Every limit gives Error(bad_request) (input) or Error(bad_file) (template) with the limit's name.
struct TemplateLimits {
  size_t source_bytes = size_t{1} << 20;
  size_t input_bytes = size_t{64} << 20;   ///< messages, tools and kwargs together
  size_t output_bytes = size_t{64} << 20;  ///< of the text and of every value on the way to it
  uint64_t steps =
      500'000;          ///< interpreter instructions, 64 bytes made, items visited; and half a step per byte of input
  int recursion = 400;  ///< nested calls, loops and blocks; a macro counts four
  int json_depth = 64;
};

struct RenderRequest {
  std::string_view messages_json;     ///< an array of {role, content, ...}
  std::string_view tools_json = {};   ///< an array, or empty for none
  std::string_view kwargs_json = {};  ///< an object of extra variables, such as {"enable_thinking": false}, or empty
  std::string_view template_name =
      {};  ///< a named template; empty: "tool_use" when tools are given and it exists, else "default"
  bool add_generation_prompt = true;
  /// Opt-out of the guard: control tokens spelled in messages become control tokens, as in transformers.
  bool trust_content = false;
  /// Seconds since the epoch for strftime_now, so that a rendering can be repeated; negative: the clock. Printed in
  /// local time, as Python does.
  double now = -1;
};

/// Immutable after loading; render() may be called from any thread and needs little of its stack.
class ChatTemplate {
 public:
  /// The templates and special tokens of a loaded tokenizer. Throws Error(bad_file) naming line and reason when a
  /// template does not parse, Error(unsupported) when the directory has none.
  static ChatTemplate from_tokenizer(const Tokenizer& tokenizer, const TemplateLimits& limits = {});
  /// One template from its source; `tokenizer` gives the special tokens and what must be guarded.
  static ChatTemplate from_source(std::string_view source, const Tokenizer& tokenizer,
                                  const TemplateLimits& limits = {});
  /// Without a tokenizer: `control_tokens` are guarded, `named_tokens` are {name, text} variables.
  static ChatTemplate from_parts(std::vector<std::pair<std::string, std::string>> templates,
                                 std::vector<std::pair<std::string, std::string>> named_tokens,
                                 std::vector<std::string> control_tokens, const TemplateLimits& limits = {});

  RenderedPrompt render(const RenderRequest& request) const;
  /// The same with the parts in a row.
  RenderedPrompt render(std::string_view messages_json, std::string_view tools_json = {},
                        std::string_view kwargs_json = {}, bool add_generation_prompt = true) const;

  std::vector<std::string> names() const;
  /// Whether a template asks for the time, so that a rendering is not the same on another day.
  bool uses_clock() const;
  /// Source of a named template. Throws Error(bad_request) naming those that exist.
  const std::string& source(std::string_view name = "default") const;

 private:
  struct Impl;
  explicit ChatTemplate(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace bumblebee::txt
