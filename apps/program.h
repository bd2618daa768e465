// The command line as a whole: which verbs there are, what is the same for all of them, and how a mistake is reported.
#pragma once

#include <CLI/CLI.hpp>

#include <memory>

#include "options/common.h"

namespace bumblebee::cli {

/// The parser with every verb; `session` must outlive it.
std::unique_ptr<CLI::App> make_program(Session& session);

/// Parses and runs; returns the exit status. Never throws.
int run_program(int count, char** arguments);

}  // namespace bumblebee::cli
