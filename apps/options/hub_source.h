// Models and adapters by name: a directory, or a repository of the Hub, which downloads with bars and stops on Ctrl-C.
#pragma once

#include <string>

#include "bumblebee/repository.h"
#include "options/common.h"

namespace bumblebee::cli {

/// Options of the Hub as a command line has them.
HubOptions hub_options(const CommonFlags& common);

/// repository() with hub_options().
Repository hub_source(const std::string& text, const CommonFlags& common);

}  // namespace bumblebee::cli
