// Parses the flags of loading and loads with a progress bar.
#include "options/model_flags.h"

#include <chrono>

#include "options/hub_source.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"

namespace bumblebee::cli {

Option* add_model_flag(Parser& verb, std::string& model) {
  return verb
      .add_option("-m,--model", model, "Model: a directory, or org/name[/folder][@revision] of the Hugging Face Hub")
      ->option_text("MODEL")
      ->group("Model")
      ->shared();
}

void add_kv_type_flags(Parser& verb, std::string& kv_type) {
  Option* type = verb.add_option("--kv-type", kv_type,
                                 "Type of cached keys and values: f32, f16, bf16, int8, or auto (default): bf16, "
                                 "with --precision exact f32")
                     ->option_text("TYPE")
                     ->check(one_of({"auto", "f32", "f16", "bf16", "int8"}))
                     ->group("Model");
  verb.add_option_function(
          "--kv-bits",
          [&kv_type](const std::string& bits) { kv_type = bits == "8"    ? "int8"
                                                          : bits == "16" ? "bf16"
                                                                         : "f32"; },
          "The same by width: 8 (int8), 16 (bf16) or 32 (f32)")
      ->option_text("N")
      ->check(one_of({"8", "16", "32"}))
      ->excludes(type)
      ->group("Model");
}

Option* add_pin_flag(Parser& verb, std::string& pin) {
  return verb
      .add_option("--pin", pin,
                  "Bind threads: none, cores (one each), or auto (default): to memory nodes where there are several")
      ->option_text("P")
      ->check(one_of({"auto", "none", "cores"}))
      ->shared();
}

void add_model_flags(Parser& verb, ModelFlags& flags) {
  add_loading_flags(verb, flags);
  verb.add_option("-t,--threads", flags.threads, "Threads (default 0: one per core)")
      ->option_text("N")
      ->check(integer_between(0, 1024))
      ->group("Model")
      ->shared();
}

void add_loading_flags(Parser& verb, ModelFlags& flags) {
  add_model_flag(verb, flags.model);
  verb.add_option(
          "--device", flags.device,
          "cpu, cuda[:N], ref (slow, exact), auto (a card if it can, else cpu); see 'bumblebee doctor' (default cpu)")
      ->option_text("NAME")
      ->suggests({"cpu", "cuda", "auto", "ref"})
      ->group("Model")
      ->shared();
  verb.add_option("--precision", flags.precision,
                  "fast (default): inputs of products are rounded to 8 bits; exact: nothing is, to compare with others")
      ->option_text("P")
      ->check(one_of({"exact", "fast"}))
      ->group("Model");
  add_kv_type_flags(verb, flags.kv_type);
  const Option* quantization =
      verb.add_option("--quantization", flags.quantization,
                      "Quantize a dense model while loading: int2, int3, int4, int5, int6 or int8")
          ->option_text("INT")
          ->check(one_of({"none", "int2", "int3", "int4", "int5", "int6", "int8", "2", "3", "4", "5", "6", "8"}))
          ->suggests({"int2", "int3", "int4", "int5", "int6", "int8"})
          ->group("Model");
  add_pin_flag(verb, flags.pin)->group("Model");
  verb.add_option("--group-size", flags.group_size, "Group size for --quantization: 32, 64 or 128 (default 64)")
      ->option_text("N")
      ->check(one_of({"32", "64", "128"}))
      ->needs({quantization})
      ->group("Model");
}

KvType kv_type_from(const std::string& name) {
  if (name == "f32") return KvType::f32;
  if (name == "f16") return KvType::f16;
  if (name == "bf16") return KvType::bf16;
  return name == "int8" ? KvType::int8 : KvType::by_precision;
}

Pinning pinning_from(const std::string& name) {
  return name == "none" ? Pinning::none : name == "cores" ? Pinning::cores : Pinning::automatic;
}

Repository source(const std::string& model, const CommonFlags& common) {
  if (model.empty()) throw UsageError("no model given: use -m DIR or -m org/name (or set BUMBLEBEE_MODEL)");
  return hub_source(model, common);
}

ModelOptions ModelFlags::options() const {
  ModelOptions out;
  out.device = device;
  out.threads = threads;
  out.pinning = pinning_from(pin);
  out.precision = precision == "exact" ? Precision::exact : Precision::fast;
  out.kv_type = kv_type_from(kv_type);
  out.group_size = group_size;
  const std::string bits = quantization.starts_with("int") ? quantization.substr(3) : quantization;
  if (bits == "2") out.quantization = Quantization::int2;
  if (bits == "3") out.quantization = Quantization::int3;
  if (bits == "4") out.quantization = Quantization::int4;
  if (bits == "5") out.quantization = Quantization::int5;
  if (bits == "6") out.quantization = Quantization::int6;
  if (bits == "8") out.quantization = Quantization::int8;
  return out;
}

LoadedModel load(const ModelFlags& flags, const CommonFlags& common) {
  ProgressBar bar("loading", ProgressBar::Unit::bytes, common.progress());
  ModelOptions options = flags.options();
  options.progress = [&bar](uint64_t done, uint64_t total) {
    bar.update(done, total);
    return !interrupt::requested();
  };
  auto start = std::chrono::steady_clock::now();
  Model model = load_model(source(flags.model, common), options);
  return {std::move(model), std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
}

}  // namespace bumblebee::cli
