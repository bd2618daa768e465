// Models and adapters by name: a directory, or a repository of the Hub, which downloads with bars and stops on Ctrl-C.
#pragma once

#include <string>

#include "bumblebee/repository.h"
#include "options/common.h"

namespace bumblebee::cli {

/// Options of the Hub as a command line has them.
HubOptions hub_options(const CommonFlags& common);

/// "org/name", perhaps with a folder or a revision: what may be a repository, whether or not it is one.
bool looks_like_repository(const std::string& text);

/// Whether this means a GGUF file of this machine, there or not; an address is the Hub's to judge.
bool names_gguf(const std::string& text);

/// repository() with hub_options().
Repository hub_source(const std::string& text, const CommonFlags& common);

}  // namespace bumblebee::cli
