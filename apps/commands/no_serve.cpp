// In a build without the server there is no verb for it.
#include "commands/commands.h"

namespace bumblebee::cli {

void add_serve(Parser&, Session&) {}

}  // namespace bumblebee::cli
