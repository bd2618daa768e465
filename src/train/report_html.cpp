// Collects the run's numbers, curves and samples from the metrics and lays them out, from what matters most to what is
// looked up.
#include "train/report_html.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/format.h"
#include "train/chart.h"

namespace bumblebee::train {
namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #6b6b6b; --line: #dcdcdc; --a: #b26a00; --b: #1f5fa8; --mark: #ffe9a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #a0a0a0; --line: #3a3a3a; --a: #f0b040; --b: #7db4f0; --mark: #5c4a12; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { line-height: 1.2; } .verdict { font-size: 1.15rem; border-left: 4px solid var(--a); padding-left: .8rem; }
.numbers { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 1.2rem 0; } .numbers b { display: block; font-size: 1.5rem; font-weight: 600; }
.numbers span { color: var(--soft); }
table { border-collapse: collapse; } td, th { text-align: left; vertical-align: top; padding: .2rem 1.2rem .2rem 0; }
th { font-weight: 600; } .facts th { color: var(--soft); font-weight: 400; min-width: 9rem; }
abbr { text-decoration: none; font-family: ui-monospace, monospace; font-size: .9em; }
svg { width: 100%; height: auto; margin: .8rem 0; } svg text { font-size: 11px; fill: var(--soft); }
svg .title { font-size: 13px; fill: var(--ink); } svg text.best { fill: var(--a); } .grid { stroke: var(--line); }
path { fill: none; stroke-width: 1.6; } path.a { stroke: var(--a); } path.b { stroke: var(--b); }
circle.a, svg tspan.a { fill: var(--a); } circle.b, svg tspan.b { fill: var(--b); }
circle.best { fill: none; stroke: var(--a); stroke-width: 1.6; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.4rem; margin: 0 0 1.4rem; } .pair > .prompt { grid-column: 1 / -1; }
.text { white-space: pre-wrap; border-left: 3px solid var(--line); padding-left: .8rem; margin: .4rem 0; }
.text.with { border-color: var(--a); } .prompt, .text b, .copied { color: var(--soft); font-weight: 400; } .text b { display: block; }
.copied { display: block; font-size: .88rem; white-space: normal; margin-top: .3rem; } mark { background: var(--mark); color: inherit; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; } .pair { grid-template-columns: 1fr; } .numbers { gap: .5rem 1.4rem; } .numbers b { font-size: 1.2rem; }
  .facts tr { display: block; margin-bottom: .5rem; } .facts th, .facts td { display: block; padding: 0; }
  svg text { font-size: 19px; } svg .title { font-size: 21px; } svg .tick.odd { display: none; } path { stroke-width: 2.6; }
}
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

/// The last line of `type`; null for none.
Json last_of(const std::vector<Json>& metrics, const char* type) {
  for (auto line = metrics.rbegin(); line != metrics.rend(); ++line)
    if (line->value("type", "") == type) return *line;
  return nullptr;
}

bool has(const Json& line, const char* key) { return line.is_object() && line.contains(key) && line[key].is_number(); }
double value(const Json& line, const char* key) { return has(line, key) ? line[key].get<double>() : NAN; }

std::string loss_chart(const std::vector<Json>& metrics) {
  const auto validation = curve(metrics, "validation", "loss");
  const auto best = std::min_element(validation.begin(), validation.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  Series measured{"validation", "a", validation, true, {}};
  if (best != validation.end()) measured.best = best->first;
  return svg({.title = "Loss (nats per token)",
              .x_label = "iteration",
              .y_label = {},
              .series = {measured, {"training", "b", curve(metrics, "train", "loss")}}});
}

std::string other_charts(const std::vector<Json>& metrics) {
  const auto one = [&metrics](const char* title, const char* key) {
    return svg({.title = title,
                .x_label = "iteration",
                .y_label = {},
                .series = {{title, "b", curve(metrics, "train", key)}},
                .from_zero = true});
  };
  return cat("<h2>Other curves</h2>\n", one("Learning rate", "learning_rate"),
             one("Gradient norm, before clipping", "gradient_norm"),
             one("Learned tokens per second", "tokens_per_second"));
}

std::string fixed3(double number) { return format("{:.3f}", number); }

std::string numbers(const std::vector<Json>& metrics) {
  const auto validation = curve(metrics, "validation", "loss");
  const Json end = last_of(metrics, "end");
  std::string out;
  const auto card = [&out](const std::string& number, const std::string& what) {
    out += cat("<div><b>", escape_html(number), "</b><span>", escape_html(what), "</span></div>\n");
  };
  if (!validation.empty()) {
    const auto best = std::min_element(validation.begin(), validation.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    const auto [at, loss] = *best;
    const auto [begun, first] = validation.front();
    const auto [ended, last] = validation.back();
    const bool whole = begun == 0, gained = at > 0;
    if (whole) card(fixed3(first), "validation loss at the start");
    if (gained || !whole) card(fixed3(loss), cat("at its best, iteration ", short_number(at)));
    if (ended != at) card(fixed3(last), "at the end");
    if (whole)
      card(cat(short_number(std::exp(first)), " → ", short_number(std::exp(gained ? loss : last))),
           "perplexity of texts it did not see");
  }
  if (has(end, "test_loss")) {
    const std::string before =
        has(end, "first_test_loss") ? short_number(std::exp(value(end, "first_test_loss"))) + " → " : "";
    card(before + short_number(std::exp(value(end, "test_loss"))), "perplexity of the test");
  }
  return out.empty() ? out : cat("<div class=\"numbers\">\n", out, "</div>\n");
}

/// `text` with the run that is copied marked.
std::string marked(const std::string& text, const std::string& run) {
  const size_t at = run.empty() ? std::string::npos : text.find(run);
  if (at == std::string::npos) return escape_html(text);
  return cat(escape_html(text.substr(0, at)), "<mark>", escape_html(run), "</mark>",
             escape_html(text.substr(at + run.size())));
}

std::string copied(const Json& c) {
  if (!c.is_object() || c.value("words", 0) == 0) return "no word of it was learned";
  return cat("longest run that was learned: ", c.value("words", 0), " of ", c.value("of_words", 0), " words, ",
             c.value("characters", 0), " characters, ", c.value("tokens", 0), " tokens, as in ",
             c.value("where", std::string()));
}

std::string comparisons(const std::vector<Json>& metrics) {
  std::string out;
  for (const Json& line : metrics) {
    if (line.value("type", "") != "comparison") continue;
    constexpr int kWorthMarking = 3;  // words: shorter runs are everybody's
    const auto side = [&line](const char* css, const char* title, const char* text, const char* run) {
      const Json c = line.value(run, Json());
      return cat("<div class=\"text ", css, "\"><b>", title, "</b>",
                 marked(line.value(text, std::string()),
                        c.is_object() && c.value("words", 0) >= kWorthMarking ? c.value("text", std::string()) : ""),
                 "<span class=\"copied\">", escape_html(copied(c)), "</span></div>");
    };
    out += cat("<div class=\"pair\"><div class=\"prompt\">", escape_html(line.value("prompt", "")), "</div>",
               side("", "without the adapter", "without", "copied_without"),
               side("with", "with the adapter", "with", "copied_with"), "</div>\n");
  }
  if (out.empty()) return out;
  const Json end = last_of(metrics, "end"), held = end.is_object() ? end.value("held_out_copied", Json()) : Json();
  std::string yardstick;
  if (held.is_object() && held.value("words", 0) > 0)
    yardstick =
        cat("<p class=\"prompt\">A measure for what is marked: of the validation's own texts, which it never saw, the "
            "longest "
            "run that was learned has ",
            held.value("words", 0), " words (", escape_html(held.value("text", "")), ").</p>\n");
  return cat("<h2>Without and with the adapter</h2>\n", yardstick, out);
}

std::string samples(const std::vector<Json>& metrics) {
  std::map<double, std::map<std::string, std::string>> by_iteration;
  for (const Json& line : metrics) {
    if (line.value("type", "") != "sample") continue;
    by_iteration[line.value("iteration", 0.0)][line.value("prompt", "")] = line.value("text", "");
  }
  if (by_iteration.empty()) return {};
  std::string out = "<h2>Samples on the way</h2>\n";
  for (const auto& [iteration, texts] : by_iteration) {
    out += iteration == 0
               ? "<h3>Before the first iteration</h3>\n"
               : cat("<h3>After ", short_number(iteration), iteration == 1 ? " iteration" : " iterations", "</h3>\n");
    for (const auto& [prompt, text] : texts)
      out += cat("<div class=\"text\"><b>", escape_html(prompt), "</b>", escape_html(text), "</div>\n");
  }
  return out;
}

std::string duration(double seconds) {
  if (seconds < 100) return format("{:.1f} s", seconds);
  return seconds < 6000 ? format("{:.0f} min", seconds / 60) : format("{:.1f} h", seconds / 3600);
}

std::string bytes(double count) {
  return count < 1e9 ? format("{:.0f} MB", count / 1e6) : format("{:.2f} GB", count / 1e9);
}

/// A hash as people compare it, the whole of it in the title.
std::string hash(const std::string& digits) {
  constexpr size_t kShown = 12;
  if (digits.size() <= kShown) return escape_html(digits);
  return cat("<abbr title=\"", escape_html(digits), "\">", escape_html(digits.substr(0, kShown)), "…</abbr>");
}

std::string ending(const std::string& end) {
  if (end == "early_stopped") return "stopped early: validation no longer got better";
  return end == "cancelled" ? "stopped by hand" : end;
}

class Facts {
 public:
  void add(const char* name, const std::string& html) {
    rows_ += cat("<tr><th>", escape_html(name), "</th><td>", html, "</td></tr>\n");
  }
  void count(const Json& line, const char* key, const char* name) {
    if (has(line, key)) add(name, format("{:.0f}", value(line, key)));
  }
  std::string table() const { return cat("<table class=\"facts\">\n", rows_, "</table>\n"); }

 private:
  std::string rows_;
};

std::string facts(const ReportPage& page) {
  Facts out;
  for (const auto& [name, text] : page.facts) out.add(name.c_str(), escape_html(text));
  Json start = nullptr;  // the first: a resumed run began then
  for (const Json& line : page.metrics)
    if (start.is_null() && line.value("type", "") == "start") start = line;
  if (start.is_object()) {
    const Json under = start.value("on_top_of", Json::array());
    std::string list;
    for (const Json& one : under)
      if (one.is_string()) list += (list.empty() ? "" : ", ") + one.get<std::string>();
    if (!list.empty()) out.add("on top of", escape_html(list));
    out.add("rows",
            cat(format("{:.0f} to learn, {:.0f} to validate, {:.0f} to test", value(start, "rows"),
                       value(start, "valid_rows"), value(start, "test_rows")),
                value(start, "truncated_rows") > 0 ? format("; {:.0f} cut", value(start, "truncated_rows")) : ""));
    out.add("trained", format("{:.0f} values in {:.0f} modules of {:.0f} layers", value(start, "trainable_parameters"),
                              value(start, "modules"), value(start, "layers")));
    if (has(start, "iterations")) {
      const double passes = value(start, "iterations") / std::max(1.0, value(start, "batches_per_epoch"));
      out.add("iterations planned", format("{:.0f}, {:.3g} times over the rows", value(start, "iterations"), passes));
    }
    if (has(start, "estimated_memory_bytes")) out.add("memory, at most", bytes(value(start, "estimated_memory_bytes")));
    out.add("started", escape_html(start.value("time", "")));
  }
  const Json end = last_of(page.metrics, "end");
  if (end.is_object()) {
    out.add("end",
            cat(escape_html(ending(end.value("end", ""))), ", after ", format("{:.0f}", value(end, "iterations")),
                " iterations and ", format("{:.0f}", value(end, "updates")), " updates"));
    if (has(end, "seconds")) out.add("time", duration(value(end, "seconds")));
    out.count(end, "trained_tokens", "learned tokens");
    if (has(end, "train_loss")) out.add("training loss, last", fixed3(value(end, "train_loss")));
    if (has(end, "test_loss")) out.add("test loss", fixed3(value(end, "test_loss")));
    out.add("adapter's id", hash(end.value("adapter_id", "")));
    if (!end.value("base_hash", "").empty()) out.add("base's hash", hash(end.value("base_hash", "")));
  }
  return "<h2>What was done</h2>\n" + out.table();
}

std::string verdict_of(const std::vector<Json>& metrics) {
  const Json end = last_of(metrics, "end");
  std::string text = end.is_object() ? end.value("verdict", "") : "";
  if (!text.empty()) text[0] = char(std::toupper(static_cast<unsigned char>(text[0])));
  return text.empty() ? "" : cat("<p class=\"verdict\">", escape_html(text), "</p>\n");
}

}  // namespace

std::string report_html(const ReportPage& page) {
  return cat(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<title>",
      escape_html(page.title), "</title>\n<style>", kStyle, "</style>\n</head>\n<body>\n<h1>", escape_html(page.title),
      "</h1>\n", verdict_of(page.metrics), numbers(page.metrics), loss_chart(page.metrics), comparisons(page.metrics),
      samples(page.metrics), other_charts(page.metrics), facts(page), "</body>\n</html>\n");
}

}  // namespace bumblebee::train
