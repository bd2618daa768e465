// Each of these is text, and short where it matters.
#include "base/foreign_file.h"

#include <algorithm>
#include <charconv>

#include "base/ascii.h"
#include "base/error.h"
#include "base/format.h"

namespace bumblebee {
namespace {

constexpr size_t kHead = 512;

/// "size 4274912345" of a pointer, for people; empty when it has none.
std::string pointed_size(std::string_view pointer) {
  const size_t at = pointer.find("\nsize ");
  if (at == std::string_view::npos) return "";
  double bytes = 0;
  const std::string_view number = pointer.substr(at + 6);
  if (std::from_chars(number.data(), number.data() + number.size(), bytes).ec != std::errc()) return "";
  return bytes < 1e9 ? format(" ({:.1f} MB)", bytes / 1e6) : format(" ({:.2f} GB)", bytes / 1e9);
}

}  // namespace

std::string foreign_content(std::string_view text) {
  std::string_view head = text.substr(0, kHead);
  if (head.starts_with("\xEF\xBB\xBF")) head.remove_prefix(3);
  head.remove_prefix(std::min(head.find_first_not_of(" \t\r\n"), head.size()));
  if (head.starts_with("version https://git-lfs.github.com/spec/")) {
    return cat("a Git LFS pointer, not the file itself", pointed_size(head),
               ": `git lfs pull` in its repository fetches it, `bumblebee pull org/name` the repository");
  }
  const std::string begin = lower(head.substr(0, 16));
  if (begin.starts_with("<!doctype html") || begin.starts_with("<html")) {
    return "an HTML page, not the file itself: the address of a file of the Hub has /resolve/ in it, and "
           "`bumblebee pull org/name` fetches the repository";
  }
  for (const char* answer : {"Entry not found", "Repository not found", "Invalid username or password",
                             "Access to model ", "Invalid credentials"}) {
    if (text.size() < kHead && head.starts_with(answer))
      return cat("the Hub's answer '", head.substr(0, head.find('\n')), "', not the file itself");
  }
  return "";
}

}  // namespace bumblebee
