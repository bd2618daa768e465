// Ctrl-C: the first one asks the running work to stop, the second one ends the program. The chat's prompt clears it
// between answers.
#pragma once

#include "bumblebee/generation.h"

namespace bumblebee::cli::interrupt {

/// Takes over SIGINT, and gives SIGPIPE its default back: a reader that goes away ends the program quietly.
void install();

/// Whether Ctrl-C was pressed since the start or the last clear().
bool requested();
void clear();

/// Waits until `file` has something to read, or ends. False: Ctrl-C came, now or before; whichever thread heard it.
bool wait_readable(int file);

/// While alive, Ctrl-C cancels this request. At most one at a time.
class Scope {
 public:
  explicit Scope(text::CancelHandle& handle);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
};

}  // namespace bumblebee::cli::interrupt
