// `convert`: a GGUF file, or a checkpoint directory, into an MLX-format directory. Flags are those of mlx_lm.convert
// where it has them.
#include <filesystem>

#include "bumblebee/repository.h"
#include "commands/commands.h"
#include "commands/conversion.h"
#include "io/gguf_convert.h"
#include "io/quantize_checkpoint.h"
#include "options/hub_source.h"
#include "options/validators.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

namespace {

struct ConvertFlags {
  CommonFlags common;
  std::string source, output, model, output_flag;
  bool quantize = false, dequantize = false, requantize = false, force = false;
  int bits = 0, group_size = 0;  // 0: what the mode has
  std::string mode = "affine", dtype, variant = "cpu";
  int threads = 0;
  const Option *source_option = nullptr, *model_option = nullptr, *output_option = nullptr,
               *output_flag_option = nullptr;
};

AffineVariant variant_of(const std::string& name) { return name == "gpu" ? AffineVariant::gpu : AffineVariant::cpu; }

ConversionJob from_gguf(const ConvertFlags& flags, const std::string& source) {
  if (flags.dequantize) throw UsageError("--dequantize works on a checkpoint directory, not on a GGUF file");
  GgufConvertOptions options;
  if (std::optional<DType> dtype = dtype_of(flags.dtype)) options.dense = *dtype;
  if (flags.requantize || flags.quantize)
    options.requantize = spec_from_flags(flags.mode, flags.bits, flags.group_size);
  options.variant = variant_of(flags.variant);
  options.threads = flags.threads;
  ConversionJob job;
  job.source = source;
  job.convert = [source, options](const std::filesystem::path& directory, const ConversionProgress& progress) {
    return convert_gguf(source, directory, options, progress);
  };
  return job;
}

ConversionJob from_directory(const ConvertFlags& flags, const std::string& source) {
  if (flags.requantize) throw UsageError("--requantize works on a GGUF file; for a directory use --quantize");
  RewriteOptions options;
  if (flags.quantize) options.quantize = spec_from_flags(flags.mode, flags.bits, flags.group_size);
  options.dequantize = flags.dequantize;
  options.dtype = dtype_of(flags.dtype);
  options.variant = variant_of(flags.variant);
  options.threads = flags.threads;
  std::filesystem::path directory = hub_source(source, flags.common).directory();
  ConversionJob job;
  job.source = directory;
  job.convert = [directory, options](const std::filesystem::path& target, const ConversionProgress& progress) {
    RewriteOptions all = options;
    all.inputs = inputs_of(directory);
    return rewrite_checkpoint(directory, target, all, progress);
  };
  return job;
}

int run(const ConvertFlags& flags) {
  const Option* from = exclusive({flags.source_option, flags.model_option});
  const Option* to = exclusive({flags.output_option, flags.output_flag_option});
  if (!from) throw UsageError("no source given: bumblebee convert MODEL.gguf DIRECTORY");
  if (!to) throw UsageError("no output directory given: bumblebee convert MODEL.gguf DIRECTORY");
  const std::string& source = from == flags.source_option ? flags.source : flags.model;
  // A name that ends in .gguf means a file even when there is none: the message should be about the file.
  bool gguf = std::filesystem::is_regular_file(source) || names_gguf(source);
  ConversionJob job = gguf ? from_gguf(flags, source) : from_directory(flags, source);
  job.label = "converting";
  job.output = to == flags.output_option ? flags.output : flags.output_flag;
  job.existing = flags.force ? OutputDirectory::Existing::replace : OutputDirectory::Existing::refuse;
  return run_conversion(job, flags.common);
}

}  // namespace

void add_convert(Parser& app, Session& session) {
  auto flags = std::make_shared<ConvertFlags>();
  Parser* verb = add_verb(app, {"convert", "Convert a GGUF file or a checkpoint to an MLX-format directory"});
  verb->own_variables();
  flags->source_option = verb->add_option("source", flags->source, "MODEL.gguf, a checkpoint directory, or org/name");
  flags->output_option = verb->add_option("output", flags->output, "The directory to make");
  flags->model_option =
      verb->add_option("-m,--model,--hf-path", flags->model, "The source, as above")->option_text("MODEL");
  flags->output_flag_option =
      verb->add_option("-o,--output-dir,--mlx-path", flags->output_flag, "The output, as above")->option_text("DIR");
  verb->add_option("--dtype", flags->dtype,
                   "Dense weights and scales: float16, bfloat16, float32 (default: as stored; GGUF: float16)")
      ->option_text("TYPE")
      ->check(one_of({"float16", "bfloat16", "float32", "f16", "bf16", "f32"}));
  const Option* quantize = verb->add_flag("-q,--quantize", flags->quantize, "Quantize a dense checkpoint");
  Option* bits = verb->add_option("--q-bits", flags->bits, "Bits per weight: 2, 3, 4, 5, 6 or 8 (default 4)")
                     ->option_text("N")
                     ->check(one_of({"2", "3", "4", "5", "6", "8"}));
  Option* group = verb->add_option("--q-group-size", flags->group_size, "Weights per scale: 32, 64 or 128 (default 64)")
                      ->option_text("N")
                      ->check(one_of({"32", "64", "128"}));
  Option* mode = verb->add_option("--q-mode", flags->mode, "affine (default), mxfp4, mxfp8 or nvfp4")
                     ->option_text("MODE")
                     ->check(one_of({"affine", "mxfp4", "mxfp8", "nvfp4"}));
  Option* variant =
      verb->add_option("--variant", flags->variant, "Rounding of MLX's cpu or gpu quantizer (default cpu)")
          ->option_text("V")
          ->check(one_of({"cpu", "gpu"}));
  verb->add_flag("-d,--dequantize", flags->dequantize, "Make quantized weights dense")->excludes(quantize);
  const Option* requantize =
      verb->add_flag("--requantize", flags->requantize,
                     "GGUF: quantize what has no exact counterpart (K-quants, dense), as --q-bits says");
  for (Option* option : {bits, group, mode, variant}) option->needs({quantize, requantize});
  verb->add_option("-t,--threads", flags->threads, "Threads (default 0: one per core)")
      ->option_text("N")
      ->check(integer_between(0, 1024))
      ->shared();
  verb->add_flag("--force", flags->force,
                 "Replace what an earlier run wrote in the output directory; other files stay");
  verb->footer(
      "Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 of a GGUF file keep their codes and lose nothing; F16, BF16 and F32 stay as "
      "they\n"
      "are; other types are decoded to --dtype, or quantized again with --requantize. The report says what was "
      "exact.\n\n"
      "Examples:\n  bumblebee convert model.gguf model-mlx\n  bumblebee convert dense-dir small-dir -q --q-bits 4");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
