// Collects curves and samples from the metrics and lays them out.
#include "train/report_html.h"

#include <nlohmann/json.hpp>

#include <map>

#include "base/error.h"
#include "train/chart.h"

namespace bumblebee::train {
namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #6b6b6b; --line: #dcdcdc; --a: #b26a00; --b: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #a0a0a0; --line: #3a3a3a; --a: #f0b040; --b: #7db4f0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { text-align: left; vertical-align: top; padding: .2rem 1.2rem .2rem 0; }
th { font-weight: 600; } .facts th { color: var(--soft); font-weight: 400; }
svg { width: 100%; height: auto; margin: .8rem 0; } svg text { font-size: 11px; fill: var(--soft); }
svg .title { font-size: 13px; fill: var(--ink); } .grid { stroke: var(--line); }
path { fill: none; stroke-width: 1.6; } path.a { stroke: var(--a); } path.b { stroke: var(--b); }
circle.a, svg text.a { fill: var(--a); } circle.b, svg text.b { fill: var(--b); }
.sample { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--line); padding-left: .8rem; margin: .4rem 0 1rem; }
.sample b { color: var(--soft); font-weight: 400; display: block; }
)";

/// Values of `key` over the iterations of lines of `type`.
std::vector<std::pair<double, double>> curve(const std::vector<Json>& metrics, const char* type, const char* key) {
  std::map<double, double> points;
  for (const Json& line : metrics) {
    if (line.value("type", "") != type) continue;
    const auto value = line.find(key), iteration = line.find("iteration");
    if (value == line.end() || iteration == line.end() || !value->is_number() || !iteration->is_number()) continue;
    points[iteration->get<double>()] = value->get<double>();
  }
  return {points.begin(), points.end()};
}

std::string charts(const std::vector<Json>& metrics) {
  const auto one = [&metrics](const char* title, const char* key, bool from_zero) {
    return svg({.title = title,
                .x_label = "iteration",
                .y_label = {},
                .series = {{title, "b", curve(metrics, "train", key)}},
                .from_zero = from_zero});
  };
  return svg({.title = "Loss (nats per token)",
              .x_label = "iteration",
              .y_label = {},
              .series = {{"validation", "a", curve(metrics, "validation", "loss"), true},
                         {"training", "b", curve(metrics, "train", "loss")}}}) +
         one("Learning rate", "learning_rate", true) + one("Gradient norm, before clipping", "gradient_norm", true) +
         one("Throughput (learned tokens per second)", "tokens_per_second", true);
}

std::string samples(const std::vector<Json>& metrics) {
  std::map<double, std::map<std::string, std::string>> by_iteration;
  for (const Json& line : metrics) {
    if (line.value("type", "") != "sample") continue;
    by_iteration[line.value("iteration", 0.0)][line.value("prompt", "")] = line.value("text", "");
  }
  if (by_iteration.empty()) return {};
  std::string out = "<h2>Samples</h2>\n";
  for (const auto& [iteration, texts] : by_iteration) {
    out += cat("<h3>After ", short_number(iteration), " iterations</h3>\n");
    for (const auto& [prompt, text] : texts)
      out += cat("<div class=\"sample\"><b>", escape_html(prompt), "</b>", escape_html(text), "</div>\n");
  }
  return out;
}

std::string facts(const ReportPage& page) {
  std::string out = "<table class=\"facts\">\n";
  for (const auto& [name, value] : page.facts)
    out += cat("<tr><th>", escape_html(name), "</th><td>", escape_html(value), "</td></tr>\n");
  for (const Json& line : page.metrics) {
    if (line.value("type", "") != "end") continue;
    for (const auto& [key, value] : line.items()) {
      if (key == "type" || key == "time") continue;
      out += cat("<tr><th>", escape_html(key), "</th><td>",
                 escape_html(value.is_string()         ? value.get<std::string>()
                             : value.is_number_float() ? short_number(value.get<double>())
                                                       : value.dump()),
                 "</td></tr>\n");
    }
  }
  return out + "</table>\n";
}

}  // namespace

std::string report_html(const ReportPage& page) {
  return cat(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<title>",
      escape_html(page.title), "</title>\n<style>", kStyle, "</style>\n</head>\n<body>\n<h1>", escape_html(page.title),
      "</h1>\n", facts(page), charts(page.metrics), samples(page.metrics), "</body>\n</html>\n");
}

}  // namespace bumblebee::train
