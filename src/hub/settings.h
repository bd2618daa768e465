// Everything that decides how the Hub is asked and where its files lie, read from the environment once and passed down
// as a value, so that tests and applications may choose differently.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

namespace bumblebee::hub {

using Milliseconds = std::chrono::milliseconds;

/// A variable of the environment; empty where it is not set.
std::string environment(const std::string& name);

/// How often and how patiently a failed request is repeated. Attempts start again from 1 whenever bytes arrive.
struct RetryPolicy {
  int attempts = 6;
  Milliseconds first_wait{1000};  // doubled each time
  Milliseconds longest_wait{8000};
  Milliseconds longest_retry_after{300000};  // a server that asks for more patience is an error
};

struct Settings {
  std::string endpoint = "https://huggingface.co";  // without a slash at the end
  std::string token;                                // empty: none
  std::filesystem::path cache;                      // the directory that holds "models--org--name"
  bool offline = false;
  bool symlinks = true;                  // false: files lie in the snapshots themselves
  Milliseconds api_timeout{10000};       // to connect, and for silence of the API
  Milliseconds download_timeout{10000};  // for silence while a file is read
  RetryPolicy retry;
  std::string user_agent = "bumblebee";
  int workers = 8;                           // files at a time
  uint64_t free_bytes_at_most = UINT64_MAX;  // leaves the rest of the disk to others
};

/// Reads HF_ENDPOINT, HF_TOKEN (else the file HF_TOKEN_PATH, else $HF_HOME/token; HUGGING_FACE_HUB_TOKEN),
/// HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_CACHE (HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME), HF_HUB_OFFLINE
/// (TRANSFORMERS_OFFLINE), HF_HUB_DISABLE_SYMLINKS, HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (seconds, also
/// fractions), BUMBLEBEE_HUB_BACKOFF (seconds before the first repetition). Throws Error(bad_request) for a value that
/// means nothing.
Settings settings_from_environment();

/// The cache alone, for callers that never ask the Hub; `chosen` wins when it is not empty. `~` and $VARIABLES are
/// expanded.
std::filesystem::path cache_directory(const std::filesystem::path& chosen = {});

}  // namespace bumblebee::hub
