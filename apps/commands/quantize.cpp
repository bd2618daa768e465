// `quantize`: a dense checkpoint into a quantized one.
#include "commands/commands.h"
namespace bumblebee::cli {
void add_quantize(CLI::App&, Session&) {}
}
