// tokenizer.json from a stranger, then text through what it made: a named error or ids, never a crash. What follows the
// first NUL byte of the input is the text.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bumblebee;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t border = input.find('\0');
  const std::string_view file = input.substr(0, border);
  const std::string_view text = border == std::string_view::npos ? "a b 1\n" : input.substr(border + 1);
  try {
    const txt::Tokenizer tokenizer = txt::Tokenizer::from_bytes(file);
    for (const auto control : {txt::ControlTokens::as_text, txt::ControlTokens::parse}) {
      const auto ids = tokenizer.encode(text, {.add_special_tokens = true, .control = control});
      txt::StreamDecoder stream(tokenizer);
      for (const int32_t id : ids) stream.push(id);
      stream.flush();
      tokenizer.decode(ids);
    }
  } catch (const Error&) {
    // the right answer to a broken file
  }
  return 0;
}
