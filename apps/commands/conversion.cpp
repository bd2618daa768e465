// Runs a conversion under a progress bar and prints its report.
#include "commands/conversion.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "base/error.h"
#include "bumblebee/error.h"
#include "bumblebee/model.h"
#include "bumblebee/repository.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

std::optional<DType> dtype_of(const std::string& name) {
  if (name.empty()) return std::nullopt;
  if (name == "float16" || name == "f16") return DType::f16;
  return name == "bfloat16" || name == "bf16" ? DType::bf16 : DType::f32;
}

std::map<std::string, int> inputs_of(const std::filesystem::path& directory) {
  std::map<std::string, int> inputs;
  try {
    for (const ModuleInfo& module : inspect_model(local(directory)).modules) inputs[module.name] = module.in;
  } catch (const Error&) {  // a family that does not run here; what is broken, the conversion itself says
  }
  return inputs;
}

namespace {

void print_as_json(const ConversionReport& report, const std::string& output) {
  OutJson tensors = OutJson::array();
  bool exact = true;
  for (const TensorReport& tensor : report.tensors) {
    exact = exact && tensor.exact;
    tensors.push_back({{"name", tensor.name},
                       {"source", tensor.source},
                       {"target", tensor.target},
                       {"exact", tensor.exact},
                       {"largest_error", tensor.largest_error},
                       {"bytes", tensor.bytes}});
  }
  print_json(
      {{"output", output}, {"bytes", report.bytes}, {"exact", exact}, {"notes", report.notes}, {"tensors", tensors}});
}

struct TensorGroup {
  size_t tensors = 0;
  uint64_t bytes = 0;
  double largest_error = 0;
};

void print_as_text(const ConversionReport& report, const std::string& output, bool every_tensor) {
  std::map<std::pair<bool, std::string>, TensorGroup> groups;
  for (const TensorReport& tensor : report.tensors) {
    std::string change = tensor.source == tensor.target ? tensor.source : tensor.source + " -> " + tensor.target;
    TensorGroup& group = groups[{!tensor.exact, every_tensor ? tensor.name + ": " + change : change}];
    ++group.tensors;
    group.bytes += tensor.bytes;
    group.largest_error = std::max(group.largest_error, tensor.largest_error);
  }
  bool exact = true;
  for (const auto& [key, group] : groups) {
    exact = exact && !key.first;
    std::string error = key.first ? fmt::format(", largest error {:.3g}", group.largest_error) : "";
    std::string count =
        every_tensor ? "" : std::to_string(group.tensors) + (group.tensors == 1 ? " tensor, " : " tensors, ");
    write_out((key.first ? "rounded  " : "exact    ") + key.second + ": " + count + human_bytes(double(group.bytes)) +
              error + "\n");
  }
  for (const std::string& note : report.notes) write_out("note     " + note + "\n");
  write_out("wrote    " + output + ": " + human_bytes(double(report.bytes)) +
            (exact ? ", every weight has the value it had\n" : ", some weights were rounded\n"));
}

}  // namespace

QuantSpec spec_from_flags(const std::string& mode, int bits, int group_size) {
  QuantSpec spec = QuantSpec::of(quant_mode_from_string(mode).value_or(QuantMode::affine));
  const QuantSpec usual = spec;
  if (bits != 0) spec.bits = bits;
  if (group_size != 0) spec.group = group_size;
  if (spec.mode != QuantMode::affine && spec != usual) {
    throw UsageError(
        cat(mode, " has ", usual.bits, " bits and groups of ", usual.group, ", got ", spec.bits, " and ", spec.group));
  }
  return spec;
}

int run_conversion(const ConversionJob& job, const CommonFlags& common) {
  OutputDirectory directory(job.output, job.existing, {&job.source, 1});
  ConversionReport report;
  {
    ProgressBar bar(job.label, ProgressBar::Unit::bytes, common.progress());
    report = job.convert(directory.work(), [&bar](std::string_view, uint64_t done, uint64_t total) {
      if (interrupt::requested()) throw Error(ErrorCode::cancelled, "convert", "cancelled; nothing was written");
      bar.update(done, total);
    });
  }
  directory.finish();
  if (common.json) {
    print_as_json(report, job.output.string());
  } else {
    print_as_text(report, job.output.string(), common.verbose);
  }
  return int(ExitCode::ok);
}

}  // namespace bumblebee::cli
