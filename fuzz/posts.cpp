// Any bytes as a file of texts: the first chooses the format. Refused with an Error, or texts that are UTF-8 and
// trimmed.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "base/utf8.h"
#include "dataset/post_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bumblebee;
  constexpr PostFormat kFormats[] = {PostFormat::lines, PostFormat::paragraphs, PostFormat::json, PostFormat::jsonl,
                                     PostFormat::csv};
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  const PostFormat format = data[0] == 't'   ? PostFormat::twitter
                            : data[0] == 'b' ? PostFormat::bluesky
                                             : kFormats[data[0] % 5];
  try {
    for (const dataset::Post& post : dataset::parse_posts(bytes, format, "fuzz", {}).posts) {
      if (!valid_utf8(post.text) || post.line < 1 || post.text.starts_with(' ')) std::abort();
    }
  } catch (const Error&) {
  }
  return 0;
}
