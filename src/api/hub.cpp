// The public face of the hub layer: settings from the environment, an application's choices over them.
#include "bumblebee/hub.h"

#include "api/hub_access.h"
#include "base/error.h"
#include "bumblebee/version.h"
#include "hub/manage.h"
#include "hub/names.h"
#include "hub/source.h"

namespace fs = std::filesystem;

namespace bumblebee {

namespace api {

hub::Settings hub_settings(const HubOptions& options) {
  hub::Settings settings = hub::settings_from_environment();
  if (!options.cache_dir.empty()) settings.cache = hub::cache_directory(options.cache_dir);
  settings.offline = settings.offline || options.access == HubAccess::offline;
  settings.user_agent = cat("bumblebee/", version());
  return settings;
}

std::optional<std::string> split_hub_source(const std::string& source, HubOptions& options) {
  std::optional<hub::Source> parts;
  if (hub::is_address(source)) {
    parts = hub::parse_address(source, hub::settings_from_environment().endpoint);
  } else {
    parts = hub::parse_name(source);
  }
  if (!parts) return {};
  if (!parts->subdir.empty()) options.subdir = std::move(parts->subdir);
  if (!parts->revision.empty()) options.revision = std::move(parts->revision);
  return std::move(parts->id);
}

hub::Download hub_request(const std::string& id, const HubOptions& options) {
  hub::Download what;
  what.id = id;
  what.revision = options.revision;
  what.selection.subdir = options.subdir;
  if (!options.progress) return what;
  what.progress = [report = options.progress](const hub::Progress& now) {
    HubProgress progress{now.done, now.total, now.files_done, now.files_total, {}};
    for (const hub::FileProgress& file : now.active) progress.active.push_back({file.path, file.done, file.total});
    return report(progress);
  };
  return what;
}

}  // namespace api

std::string parse_hub_source(const std::string& source, HubOptions& options) {
  std::optional<std::string> id = api::split_hub_source(source, options);
  if (!id)
    throw Error(ErrorCode::bad_request, "hub",
                cat("expected org/name[/folder][@revision], got '", source.substr(0, 200), "'"));
  return std::move(*id);
}

PullResult pull(const std::string& id, const PullOptions& options) {
  hub::Settings settings = api::hub_settings(options.hub);
  if (options.workers < 1 || options.workers > 64)
    throw Error(ErrorCode::bad_request, id, cat("workers: expected 1 to 64, got ", options.workers));
  settings.workers = options.workers;
  hub::Download what = api::hub_request(id, options.hub);
  what.selection.include = options.include;
  what.selection.exclude = options.exclude;
  hub::Downloaded got = hub::download(settings, what);
  PullResult result;
  result.directory = got.snapshot / options.hub.subdir;
  if (options.hub.subdir.empty()) result.directory = got.snapshot;
  result.commit = std::move(got.commit);
  result.files = got.files;
  result.fetched_files = got.fetched_files;
  result.bytes = got.bytes;
  result.fetched_bytes = got.fetched_bytes;
  result.stale = std::move(got.stale);
  return result;
}

fs::path hub_cache(const fs::path& cache_dir) { return hub::cache_directory(cache_dir); }

CacheListing list_cache(const fs::path& cache_dir) {
  hub::CacheList list = hub::list_cache(hub_cache(cache_dir));
  CacheListing listing;
  listing.directory = std::move(list.cache);
  listing.bytes = list.bytes;
  listing.warnings = std::move(list.warnings);
  for (hub::CachedRepository& one : list.repositories) {
    CachedRepository repository{one.type,          one.id,    one.folder,   one.bytes,
                                one.partial_bytes, one.files, one.modified, {}};
    for (hub::CachedRevision& revision : one.revisions)
      repository.revisions.push_back(
          {revision.commit, std::move(revision.refs), revision.bytes, revision.files, revision.modified});
    listing.repositories.push_back(std::move(repository));
  }
  return listing;
}

CacheRemoval remove_cached(const std::vector<std::string>& targets, CacheAct act, const fs::path& cache_dir) {
  hub::Removal removal = hub::remove_from_cache(hub_cache(cache_dir), targets,
                                                act == CacheAct::remove ? hub::Act::remove : hub::Act::report);
  return {std::move(removal.what), removal.bytes};
}

CacheRemoval prune_cache(CacheAct act, const fs::path& cache_dir) {
  hub::Removal removal =
      hub::prune_cache(hub_cache(cache_dir), act == CacheAct::remove ? hub::Act::remove : hub::Act::report);
  return {std::move(removal.what), removal.bytes};
}

CacheVerification verify_cached(const std::string& id, const std::string& revision, const fs::path& cache_dir,
                                const std::function<bool(uint64_t, uint64_t)>& progress) {
  if (!hub::is_repository_id(id) || !hub::is_revision(revision))
    throw Error(
        ErrorCode::bad_request, "cache",
        cat("expected org/name and a revision, got '", id.substr(0, 200), "' and '", revision.substr(0, 200), "'"));
  hub::Verification got = hub::verify_cached(hub_cache(cache_dir), id, revision, progress);
  return {std::move(got.id),      std::move(got.commit),      got.files, got.bytes, std::move(got.broken),
          std::move(got.missing), std::move(got.unverifiable)};
}

}  // namespace bumblebee
