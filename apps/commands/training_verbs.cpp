// The verbs of training, in a build that has it.
#include "commands/commands.h"

namespace bumblebee::cli {

void add_training_verbs(Parser& app, Session& session) {
  add_prepare(app, session);
  add_train(app, session);
}

}  // namespace bumblebee::cli
