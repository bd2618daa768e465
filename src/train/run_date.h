// The moment that a run's rows are rendered at. A template may write today's date into each of them, and a run that is
// resumed on another day must still learn the same rows.
#pragma once

#include <filesystem>
#include <string>

namespace bumblebee::train {

/// "2026-11-26 21:40:05", of the clock here.
std::string local_time();

/// What the checkpoints below an adapter's directory say of their run; empty where there are none, or where its rows do
/// not depend on it.
std::string date_of_run(const std::filesystem::path& adapter_path);

/// Seconds since the epoch at which the clock here shows this. Throws Error(bad_file).
double seconds_at(const std::string& local_time);

}  // namespace bumblebee::train
