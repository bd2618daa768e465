// What heads of requests answer by themselves, whatever library is behind them.
#include "serve/http/http.h"

namespace bumblebee::serve {

std::optional<std::string_view> HttpHead::header(std::string_view name) const {
  std::optional<std::string_view> found;
  for (const auto& [key, value] : headers) {
    if (key != name) continue;
    if (found) return std::nullopt;
    found = value;
  }
  return found;
}

HttpResponse HttpHandler::on_broken(int status, std::string_view why) noexcept {
  try {
    return {status, {{"content-type", "text/plain"}}, std::string(why) + '\n'};
  } catch (...) {  // memory is short
    return {status, {}, {}};
  }
}

}  // namespace bumblebee::serve
