// Public options of the Hub as the hub layer takes them.
#pragma once

#include <string>

#include "bumblebee/repository.h"
#include "hub/download.h"
#include "hub/settings.h"

namespace bumblebee::api {

/// Throws Error(bad_request) for variables of the environment that mean nothing.
hub::Settings hub_settings(const HubOptions& options);

/// "org/name[/folder][@revision]" in its parts; false for what does not begin as an id.
bool split_hub_source(const std::string& source, std::string& id, HubOptions& options);

hub::Download hub_request(const std::string& id, const HubOptions& options);

}  // namespace bumblebee::api
