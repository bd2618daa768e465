// Curves as inline SVG: axes with round numbers, a line for each series, nothing to load and nothing to run.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace bumblebee::train {

struct Series {
  std::string name;
  std::string css;                                // class of the line, for its colour
  std::vector<std::pair<double, double>> points;  // x ascending; values that are not finite are left out
  bool dots = false;                              // a mark on every point
  std::optional<double> best = {};                // the point at this x is marked and named
};

struct Chart {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  bool from_zero = false;  // the y axis begins at 0
};

/// An <svg> element, or a sentence when there is no point at all.
std::string svg(const Chart& chart);
/// `text` with what HTML would take for markup as entities.
std::string escape_html(const std::string& text);
/// At most four significant digits.
std::string short_number(double value);

}  // namespace bumblebee::train
