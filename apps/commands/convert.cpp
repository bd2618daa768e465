// `convert`: a GGUF file or a safetensors directory into an MLX-format directory.
#include "commands/commands.h"
#include "commands/output_directory.h"
#include "options/model_flags.h"
#include "options/validators.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {
void add_convert(CLI::App&, Session&) {}
}
