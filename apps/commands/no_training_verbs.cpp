// In place of training_verbs.cpp in a build without training (BB_TRAIN=OFF).
#include "commands/commands.h"

namespace bumblebee::cli {

void add_training_verbs(Parser&, Session&) {}

}  // namespace bumblebee::cli
