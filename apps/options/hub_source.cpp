// The bars live as long as the options that draw them.
#include "options/hub_source.h"

#include <cctype>
#include <cstdlib>
#include <memory>

#include "ui/download_bars.h"
#include "ui/interrupt.h"

namespace bumblebee::cli {

namespace {

/// huggingface_hub's variable, with its words for true.
bool bars_disabled() {
  const char* value = std::getenv("HF_HUB_DISABLE_PROGRESS_BARS");
  std::string word = value == nullptr ? "" : value;
  for (char& c : word) c = char(std::tolower(static_cast<unsigned char>(c)));
  return word == "1" || word == "on" || word == "yes" || word == "true";
}

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

Repository hub_source(const std::string& text, const CommonFlags& common) {
  return repository(text, hub_options(common));
}

}  // namespace bumblebee::cli
