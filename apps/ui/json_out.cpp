// Prints JSON values, with invalid UTF-8 replaced.
#include "ui/json_out.h"

#include "ui/terminal.h"

namespace bumblebee::cli {

void print_json(const OutJson& value) {
  write_out(value.dump(-1, ' ', false, OutJson::error_handler_t::replace) + "\n");
}

}  // namespace bumblebee::cli
