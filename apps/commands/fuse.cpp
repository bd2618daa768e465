// `fuse`: adapters written into a model's weights, and what that loses against applying them at run time. Flags are
// those of mlx_lm.fuse where it has them.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "bumblebee/adapter.h"
#include "bumblebee/model.h"
#include "bumblebee/tokenizer.h"
#include "commands/commands.h"
#include "commands/conversion.h"
#include "commands/output_directory.h"
#include "commands/read_adapter_source.h"
#include "lora/fuse.h"
#include "options/adapter_flags.h"
#include "options/hub_source.h"
#include "options/model_flags.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct FuseFlags {
  CommonFlags common;
  std::string source, output, model, output_flag, dtype, variant = "cpu", text;
  std::vector<std::string> adapters;
  bool dequantize = false, force = false;
  int threads = 0, ctx_size = 256;
  const Option *source_option = nullptr, *model_option = nullptr, *output_option = nullptr,
               *output_flag_option = nullptr;
};

/// Divergences in nats per token, from what run-time application predicts.
struct Divergence {
  double fused = 0, base = 0;  // of the fused model, and of the base without the adapter
  uint64_t tokens = 0;
};

/// The adapters added up, as files' readers have them.
lora::Adapter read_adapters(const FuseFlags& flags) {
  if (flags.adapters.empty()) throw UsageError("no adapter given: --adapter DIR");
  std::vector<lora::Weighted> parts;
  for (const std::string& text : flags.adapters) {
    parts.push_back(read(AdapterSource::parse(text), flags.common));
  }
  lora::Adapter adapter = sum_of(parts).adapter;
  const auto under = adapter.facts.find("on_top_of");
  if (under != adapter.facts.end()) note_if_alone(parts.size(), adapter.name, under->second);
  return adapter;
}

lora::FuseReport fuse(const FuseFlags& flags, const std::filesystem::path& source, const std::filesystem::path& target,
                      const lora::Adapter& adapter, const lora::FuseOptions& options) {
  ProgressBar bar("fusing", ProgressBar::Unit::bytes, flags.common.progress());
  return lora::fuse_checkpoint(source, target, adapter, options,
                               [&bar](std::string_view, uint64_t done, uint64_t total) {
                                 if (interrupt::requested())
                                   throw Error(ErrorCode::cancelled, "fuse", "cancelled; nothing was written");
                                 bar.update(done, total);
                               });
}

/// log softmax of a row.
void log_probabilities(std::span<const float> logits, std::vector<double>& out) {
  double largest = -INFINITY, sum = 0;
  for (const float value : logits) largest = std::max(largest, double(value));
  for (const float value : logits) sum += std::exp(double(value) - largest);
  out.resize(logits.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = double(logits[i]) - largest - std::log(sum);
}

std::vector<int32_t> tokens_of(const FuseFlags& flags, const std::filesystem::path& source) {
  std::vector<int32_t> tokens = load_tokenizer(local(source)).encode(read_input(flags.text));
  if (tokens.empty())
    throw Error(ErrorCode::bad_request, flags.text, "expected a text of at least one token, got none");
  return tokens;
}

Divergence measure(const FuseFlags& flags, const std::filesystem::path& source, const std::filesystem::path& fused,
                   const std::vector<int32_t>& tokens) {
  ModelOptions options;
  options.precision = Precision::exact;
  options.threads = flags.threads;
  const Model base = load_model(local(source), options), changed = load_model(local(fused), options);
  const std::vector<WeightedAdapter> adapters = load_adapters({flags.adapters}, flags.common);
  ProgressBar bar("measuring", ProgressBar::Unit::items, flags.common.progress());
  const auto window = size_t(std::min(flags.ctx_size, base.info().context));
  Divergence sum;
  std::vector<double> row;
  for (size_t first = 0; first < tokens.size(); first += window) {
    const auto part = std::span<const int32_t>(tokens).subspan(first, std::min(window, tokens.size() - first));
    std::vector<std::vector<double>> wanted(part.size());
    base.logits(
        part, [&](int i, std::span<const float> logits) { log_probabilities(logits, wanted[size_t(i)]); }, adapters);
    const auto against = [&](const Model& model) {
      double divergence = 0;
      model.logits(part, [&](int i, std::span<const float> logits) {
        if (interrupt::requested()) throw Error(ErrorCode::cancelled, "fuse", "cancelled; nothing was written");
        log_probabilities(logits, row);
        const std::vector<double>& p = wanted[size_t(i)];
        for (size_t v = 0; v < p.size(); ++v) divergence += std::exp(p[v]) * (p[v] - row[v]);
      });
      return divergence;
    };
    sum.fused += against(changed);
    sum.base += against(base);
    sum.tokens += part.size();
    bar.update(first + part.size(), tokens.size());
  }
  sum.fused /= double(sum.tokens);
  sum.base /= double(sum.tokens);
  return sum;
}

lora::FuseLoss total(const std::vector<lora::FuseLoss>& losses) {
  lora::FuseLoss sum{"all", 0, 0, 0};
  for (const lora::FuseLoss& loss : losses) {
    sum.weight += loss.weight * loss.weight;
    sum.change += loss.change * loss.change;
    sum.error += loss.error * loss.error;
  }
  return {"all", std::sqrt(sum.weight), std::sqrt(sum.change), std::sqrt(sum.error)};
}

OutJson loss_json(const lora::FuseLoss& loss) {
  return {{"module", loss.module},
          {"weight", loss.weight},
          {"change", loss.change},
          {"error", loss.error},
          {"relative_error", loss.relative()}};
}

void print_as_json(const FuseFlags& flags, const lora::FuseReport& report, const std::string& output,
                   const std::optional<Divergence>& divergence) {
  OutJson modules = OutJson::array();
  for (const lora::FuseLoss& loss : report.losses) modules.push_back(loss_json(loss));
  OutJson out = {{"output", output}, {"bytes", report.conversion.bytes}, {"notes", report.conversion.notes}};
  out["adapters"] = flags.adapters;
  out["loss"] = loss_json(total(report.losses));
  if (divergence) {
    out["kl"] = {{"fused", divergence->fused}, {"base", divergence->base}, {"tokens", divergence->tokens}};
  }
  out["modules"] = modules;
  print_json(out);
}

/// A line where what storing loses is more than what the adapter changes.
std::string verdict(const lora::FuseReport& report) {
  const lora::FuseLoss all = total(report.losses);
  if (!(all.error > all.change)) return "";
  return "warning  storing these weights loses more than the adapter changes: keep the adapter apart and apply it at "
         "run time, or write dense weights (--dequantize)\n";
}

void print_as_text(const FuseFlags& flags, const lora::FuseReport& report, const std::string& output,
                   const std::optional<Divergence>& divergence) {
  size_t width = 6;
  for (const lora::FuseLoss& loss : report.losses) width = std::max(width, loss.module.size());
  const auto row = [&](const lora::FuseLoss& loss) {
    write_out(fmt::format("{:{}} {:12.4g} {:12.4g} {:12.4g} {:9.2f}%\n", one_line(loss.module), width, loss.weight,
                          loss.change, loss.error, 100 * loss.relative()));
  };
  write_out(
      fmt::format("{:{}} {:>12} {:>12} {:>12} {:>10}\n", "module", width, "weight", "change", "lost", "of change"));
  for (const lora::FuseLoss& loss : report.losses) row(loss);
  row(total(report.losses));
  write_out(verdict(report));
  if (divergence) {
    write_out(
        fmt::format("kl       {:.6g} nats per token from run-time application to the fused model; {:.6g} to the base "
                    "without the adapter ({} tokens)\n",
                    divergence->fused, divergence->base, divergence->tokens));
  }
  write_out(told_strengths(flags.adapters));
  for (const std::string& note : report.conversion.notes) write_out("note     " + note + "\n");
  write_out("wrote    " + output + ": " + human_bytes(double(report.conversion.bytes)) + "\n");
}

int run(const FuseFlags& flags) {
  const Option* from = exclusive({flags.source_option, flags.model_option});
  const Option* to = exclusive({flags.output_option, flags.output_flag_option});
  if (from == nullptr) throw UsageError("no model given: bumblebee fuse MODEL DIR --adapter ADAPTER");
  if (to == nullptr) throw UsageError("no output directory given: bumblebee fuse MODEL DIR --adapter ADAPTER");
  const std::filesystem::path source =
      hub_source(from == flags.source_option ? flags.source : flags.model, flags.common).directory();
  const std::string output = to == flags.output_option ? flags.output : flags.output_flag;
  const lora::Adapter adapter = read_adapters(flags);
  std::vector<int32_t> tokens;  // before the work, so that a mistake in the flag does not cost it
  if (!flags.text.empty()) tokens = tokens_of(flags, source);
  lora::FuseOptions options;
  options.dequantize = flags.dequantize;
  options.dtype = dtype_of(flags.dtype);
  options.variant = flags.variant == "gpu" ? AffineVariant::gpu : AffineVariant::cpu;
  options.threads = flags.threads;
  options.inputs = inputs_of(source);
  std::vector<std::filesystem::path> inputs = {source, flags.text == "-" ? "" : flags.text};
  for (const std::string& text : flags.adapters) inputs.push_back(AdapterSource::parse(text).place(flags.common));
  OutputDirectory directory(
      output, flags.force ? OutputDirectory::Existing::replace : OutputDirectory::Existing::refuse, inputs);
  const lora::FuseReport report = fuse(flags, source, directory.work(), adapter, options);
  std::optional<Divergence> divergence;
  if (!tokens.empty()) divergence = measure(flags, source, directory.work(), tokens);
  directory.finish();
  flags.common.json ? print_as_json(flags, report, output, divergence)
                    : print_as_text(flags, report, output, divergence);
  return int(ExitCode::ok);
}

}  // namespace

void add_fuse(Parser& app, Session& session) {
  auto flags = std::make_shared<FuseFlags>();
  Parser* verb = add_verb(app, {"fuse", "Write adapters into a model's weights, and say what that loses"});
  verb->own_variables();
  flags->source_option = verb->add_option("source", flags->source, "The base: a checkpoint directory, or org/name");
  flags->output_option = verb->add_option("output", flags->output, "The directory to make");
  flags->model_option = verb->add_option("-m,--model", flags->model, "The base, as above")->option_text("MODEL");
  flags->output_flag_option =
      verb->add_option("-o,--output-dir,--save-path", flags->output_flag, "The output, as above")->option_text("DIR");
  verb->add_option("--adapter,--adapter-path", flags->adapters,
                   "An adapter, with a weight (1: as trained) or its scale; several are added up")
      ->option_text("SRC[:WEIGHT|:scale=X]")
      ->allow_extra_args(false);
  const Option* dequantize = verb->add_flag("-d,--dequantize", flags->dequantize,
                                            "Write dense weights: what is lost is one rounding to --dtype");
  verb->add_option("--dtype", flags->dtype, "Dense weights: float16, bfloat16, float32 (default: as stored)")
      ->option_text("TYPE")
      ->check(one_of({"float16", "bfloat16", "float32", "f16", "bf16", "f32"}));
  verb->add_option("--variant", flags->variant, "Rounding of MLX's cpu or gpu quantizer (default cpu)")
      ->option_text("V")
      ->check(one_of({"cpu", "gpu"}))
      ->excludes(dequantize);
  const Option* text =
      verb->add_option("--text", flags->text, "A text to measure the whole model on ('-': standard input)")
          ->option_text("FILE");
  verb->add_option("-c,--ctx-size", flags->ctx_size, "Tokens per window of --text (default 256)")
      ->option_text("N")
      ->needs({text})
      ->check(integer_between(2, 1 << 30));
  verb->add_option("-t,--threads", flags->threads, "Threads (default 0: one per core)")
      ->option_text("N")
      ->check(integer_between(0, 1024))
      ->shared();
  verb->add_flag("--force", flags->force,
                 "Replace what an earlier run wrote in the output directory; other files stay");
  verb->footer(
      "A quantized base is quantized again as it was, which rounds away most of a small change; adapters applied at\n"
      "run time lose nothing. The table has Frobenius norms: of W, of the change W' - W, of what storing W' loses, "
      "and\n"
      "the last as a share of the change. --text also runs the base with the adapter and the fused model over a text "
      "and\n"
      "prints the Kullback-Leibler divergence per token.\n\n"
      "Example:\n  bumblebee fuse base-4bit fused-4bit --adapter my-adapter --text sample.txt");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
