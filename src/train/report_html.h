// The page about a training, made from its metrics alone: it can be written again from metrics.jsonl.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <utility>
#include <vector>

#include "base/json.h"

namespace bumblebee::train {

struct ReportPage {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<Json> metrics;  // lines of metrics.jsonl, in order; of two about the same thing the later one counts
};

/// A whole HTML document.
std::string report_html(const ReportPage& page);

}  // namespace bumblebee::train
