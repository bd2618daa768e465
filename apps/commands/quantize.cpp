// `quantize`: a dense checkpoint directory into a quantized one, by MLX's algorithm.
#include <filesystem>

#include "bumblebee/repository.h"
#include "commands/commands.h"
#include "commands/conversion.h"
#include "io/quantize_checkpoint.h"
#include "options/hub_source.h"
#include "options/validators.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

namespace {

struct QuantizeFlags {
  CommonFlags common;
  std::string source, output, mode = "affine", variant = "cpu";
  int bits = 0, group_size = 0, threads = 0;  // 0: what the mode has
  bool force = false;
};

int run(const QuantizeFlags& flags) {
  std::filesystem::path source = hub_source(flags.source, flags.common).directory();
  RewriteOptions options;
  options.quantize = spec_from_flags(flags.mode, flags.bits, flags.group_size);
  options.variant = flags.variant == "gpu" ? AffineVariant::gpu : AffineVariant::cpu;
  options.threads = flags.threads;
  ConversionJob job;
  job.label = "quantizing";
  job.source = source;
  job.output = flags.output;
  job.existing = flags.force ? OutputDirectory::Existing::replace : OutputDirectory::Existing::refuse;
  job.convert = [source, options](const std::filesystem::path& target, const ConversionProgress& progress) {
    return rewrite_checkpoint(source, target, options, progress);
  };
  return run_conversion(job, flags.common);
}

}  // namespace

void add_quantize(Parser& app, Session& session) {
  auto flags = std::make_shared<QuantizeFlags>();
  Parser* verb = add_verb(app, {"quantize", "Quantize a dense checkpoint"});
  verb->own_variables();
  verb->add_option("source", flags->source, "The dense checkpoint: a directory, or org/name")->required();
  verb->add_option("output", flags->output, "The directory to make")->required();
  verb->add_option("--mode", flags->mode, "affine (default), mxfp4, mxfp8 or nvfp4")
      ->option_text("MODE")
      ->check(one_of({"affine", "mxfp4", "mxfp8", "nvfp4"}));
  verb->add_option("--bits", flags->bits, "Bits per weight: 2, 3, 4, 5, 6 or 8 (default 4; other modes have one)")
      ->option_text("N")
      ->check(one_of({"2", "3", "4", "5", "6", "8"}));
  verb->add_option("--group-size", flags->group_size,
                   "Weights per scale: 32, 64 or 128 (default 64; other modes have one)")
      ->option_text("N")
      ->check(one_of({"32", "64", "128"}));
  verb->add_option("--variant", flags->variant, "Rounding of MLX's cpu or gpu quantizer (default cpu)")
      ->option_text("V")
      ->check(one_of({"cpu", "gpu"}));
  verb->add_option("-t,--threads", flags->threads, "Threads (default 0: one per core)")
      ->option_text("N")
      ->check(integer_between(0, 1024))
      ->shared();
  verb->add_flag("--force", flags->force,
                 "Replace what an earlier run wrote in the output directory; other files stay");
  verb->footer("Example:\n  bumblebee quantize dense-dir small-dir --bits 4 --group-size 64");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
