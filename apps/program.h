// The command line as a whole: which verbs there are, what is the same for all of them, and how a mistake is reported.
#pragma once

namespace bumblebee::cli {

/// Parses and runs; returns the exit status. Never throws.
int run_program(int count, char** arguments);

}  // namespace bumblebee::cli
