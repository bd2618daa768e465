// What `convert` and `quantize` share: running a conversion into a fresh directory with a progress bar, and telling
// what became of the weights.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "commands/output_directory.h"
#include "io/conversion.h"
#include "options/common.h"
#include "quant/format.h"
#include "tensor/dtype.h"

namespace bumblebee::cli {

/// What --dtype names; nothing where it is not given.
std::optional<DType> dtype_of(const std::string& name);

/// How many inputs the modules of a checkpoint have; nothing where its family is not known.
std::map<std::string, int> inputs_of(const std::filesystem::path& directory);

struct ConversionJob {
  std::string label;  // of the progress bar
  std::filesystem::path source, output;
  OutputDirectory::Existing existing = OutputDirectory::Existing::refuse;
  /// Converts into `directory`, calling `progress`.
  std::function<ConversionReport(const std::filesystem::path& directory, const ConversionProgress& progress)> convert;
};

/// Runs the job and prints its report. The output appears only when everything went well; Ctrl-C leaves nothing behind.
/// Of --mode, --bits and --group-size; 0: what the mode has.
QuantSpec spec_from_flags(const std::string& mode, int bits, int group_size);

int run_conversion(const ConversionJob& job, const CommonFlags& common);

}  // namespace bumblebee::cli
