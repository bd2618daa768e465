// Public options of the Hub as the hub layer takes them.
#pragma once

#include <optional>
#include <string>

#include "bumblebee/repository.h"
#include "hub/download.h"
#include "hub/settings.h"

namespace bumblebee::api {

/// Throws Error(bad_request) for variables of the environment that mean nothing.
hub::Settings hub_settings(const HubOptions& options);

/// The id in "org/name[/folder][@revision]" or in the address of a page; the rest goes into `options`. Nothing for what
/// does not begin as an id. Throws Error(bad_request) for an address of something else.
std::optional<std::string> split_hub_source(const std::string& source, HubOptions& options);

hub::Download hub_request(const std::string& id, const HubOptions& options);

}  // namespace bumblebee::api
