// A chat template from a stranger over messages from another: a named error or a text, never a crash or a hang. What
// follows the first NUL byte of the input is the messages' JSON.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bumblebee;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t border = input.find('\0');
  const std::string source(input.substr(0, border));
  const std::string_view messages =
      border == std::string_view::npos
          ? R"([{"role":"user","content":"a <s> b"},{"role":"assistant","content":"<think>x</think>y"}])"
          : input.substr(border + 1);
  try {
    const txt::TemplateLimits limits = {.steps = 50'000};
    const txt::ChatTemplate chat =
        txt::ChatTemplate::from_parts({{"default", source}}, {{"bos_token", "<s>"}}, {"<s>", "<|end|>"}, limits);
    const txt::RenderedPrompt prompt =
        chat.render(messages, R"([{"name":"f","x":1.5}])", R"({"enable_thinking":false})");
    for (const txt::TextSpan& span : prompt.guarded) {
      if (span.begin >= span.end || span.end > prompt.text.size()) std::abort();
    }
  } catch (const Error&) {
    // the right answer to a broken template
  }
  return 0;
}
