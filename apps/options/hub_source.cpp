// The bars live as long as the options that draw them.
#include "options/hub_source.h"

#include <memory>

#include "bumblebee/error.h"
#include "options/variables.h"
#include "ui/download_bars.h"
#include "ui/interrupt.h"

namespace bumblebee::cli {

namespace {

/// huggingface_hub's variable, with its words for true.
bool bars_disabled() { return is_yes(variable("HF_HUB_DISABLE_PROGRESS_BARS")); }

}  // namespace

HubOptions hub_options(const CommonFlags& common) {
  HubOptions options;
  auto bars = std::make_shared<DownloadBars>(bars_disabled() ? ProgressBar::Visible::never : common.progress());
  options.progress = [bars](const HubProgress& progress) {
    bars->update(progress);
    return !interrupt::requested();
  };
  return options;
}

bool looks_like_repository(const std::string& text) {
  const size_t slash = text.find('/');
  return slash != std::string::npos && slash > 0 && slash + 1 < text.size() &&
         text.find_first_of(" \t\n") == std::string::npos;
}

bool names_gguf(const std::string& text) { return text.ends_with(".gguf") && text.find("://") == std::string::npos; }

Repository hub_source(const std::string& text, const CommonFlags& common) {
  if (names_gguf(text))
    throw Error(ErrorCode::bad_file, text,
                "expected a directory, got a GGUF file: 'bumblebee convert " + text + " DIR' makes one of it");
  return repository(text, hub_options(common));
}

}  // namespace bumblebee::cli
