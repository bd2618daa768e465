// In place of training_verbs.cpp in a build without training (BB_TRAIN=OFF).
#include "commands/commands.h"

namespace bumblebee::cli {

void add_training_verbs(CLI::App&, Session&) {}

}  // namespace bumblebee::cli
