// The two ways to fail. `Error` says the world is wrong (a file, a config, a request, a device) and is thrown;
// `BB_CHECK` says that we are wrong and aborts. Kernels do neither. Never thrown across a thread, a C boundary or the
// engine's loop.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "bumblebee/error.h"

namespace bumblebee {

namespace detail {

/// One argument of cat() without its type, so that the formatting is compiled once.
class CatArg {
 public:
  enum class Kind : uint8_t { text, character, integer, natural, real, pointer };

  // Characters of every sign print as such, and truth as 1 and 0, as output streams have it.
  template <class T>
    requires(std::is_arithmetic_v<T>)
  CatArg(T value) : kind(Kind::real) {
    if constexpr (std::same_as<T, char> || std::same_as<T, signed char> || std::same_as<T, unsigned char>) {
      kind = Kind::character;
      character = static_cast<char>(value);
    } else if constexpr (std::floating_point<T>) {
      real = double(value);
    } else if constexpr (std::is_signed_v<T>) {
      kind = Kind::integer;
      integer = value;
    } else {
      kind = Kind::natural;
      natural = value;
    }
  }
  template <class T>
    requires(std::is_enum_v<T> && std::is_convertible_v<T, int64_t>)  // a plain enum; others have a to_string
  CatArg(T value) : CatArg(static_cast<std::underlying_type_t<T>>(value)) {}
  CatArg(std::string_view value) : kind(Kind::text), text(value) {}
  CatArg(const std::string& value) : CatArg(std::string_view(value)) {}
  CatArg(const char* value) : CatArg(value == nullptr ? std::string_view() : std::string_view(value)) {}
  CatArg(const void* value) : kind(Kind::pointer), pointer(value) {}

  Kind kind;
  union {
    std::string_view text;
    char character;
    int64_t integer;
    uint64_t natural;
    double real;
    const void* pointer;
  };
};

std::string cat(const CatArg* first, size_t count);

}  // namespace detail

/// Writes its arguments into one string, as an output stream would: `cat("expected ", n, ", got ", m)`.
template <class... Args>
std::string cat(const Args&... args) {
  const detail::CatArg list[] = {"", args...};
  return detail::cat(list, sizeof...(args) + 1);
}

namespace detail {
[[noreturn]] void check_failed(const char* expression, const char* file, int line, const std::string& message);
}  // namespace detail

}  // namespace bumblebee

/// Programmer error: prints expression, values, file and line, then aborts. Always on: a server that goes on with a
/// broken page table answers with another user's text.
#define BB_CHECK(cond, ...)                                                                                          \
  do {                                                                                                               \
    if (!(cond)) [[unlikely]]                                                                                        \
      ::bumblebee::detail::check_failed(#cond, __FILE__, __LINE__, ::bumblebee::cat("" __VA_OPT__(, ) __VA_ARGS__)); \
  } while (false)

// After a switch over all values of an enum: what an unoptimised build too knows not to return.
#define BB_UNREACHABLE() ::bumblebee::detail::check_failed("unreachable", __FILE__, __LINE__, "")

#ifdef NDEBUG
#define BB_DCHECK(cond, ...) ((void)0)
#else
#define BB_DCHECK(cond, ...) BB_CHECK(cond, __VA_ARGS__)
#endif
