// Scales, ticks and paths.
#include "train/chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/format.h"

namespace bumblebee::train {
namespace {

constexpr double kWidth = 640, kHeight = 240, kLeft = 64, kRight = 12, kTop = 28, kBottom = 36;
/// More points than this are averaged in runs: a curve has no more pixels, and the page stays small.
constexpr size_t kMostPoints = 1000;

constexpr int kTicks = 5;  // of the y axis

/// 1, 2 or 5 times a power of ten: at most `most` steps in `span`.
double step_for(double span, int most) {
  const double raw = span / most, power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power) return factor * power;
  }
  return 10 * power;
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
  /// To whole steps, so that the axis has a number at both ends.
  void round() {
    const double step = step_for(high - low, kTicks);
    const double bottom = std::floor(low / step + 1e-9) * step, top = std::ceil(high / step - 1e-9) * step;
    if (std::isfinite(bottom) && std::isfinite(top) && bottom < top) low = bottom, high = top;
  }
  void widen() {
    if (low < high) return;
    const double by = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= by;
    high += by;
  }
};

std::vector<std::pair<double, double>> drawn(const Series& series) {
  std::vector<std::pair<double, double>> finite;
  for (const auto& point : series.points) {
    if (std::isfinite(point.first) && std::isfinite(point.second)) finite.push_back(point);
  }
  const size_t run = (finite.size() + kMostPoints - 1) / kMostPoints;
  if (run <= 1) return finite;
  std::vector<std::pair<double, double>> out;
  for (size_t first = 0; first < finite.size(); first += run) {
    const size_t end = std::min(finite.size(), first + run);
    double sum = 0;
    for (size_t i = first; i < end; ++i) sum += finite[i].second;
    out.emplace_back(finite[end - 1].first, sum / double(end - first));
  }
  return out;
}

std::string fixed(double value) { return format("{:.1f}", value); }

class Frame {
 public:
  Frame(Range x, Range y) : x_(x), y_(y) {}
  double at_x(double x) const { return kLeft + (x - x_.low) / (x_.high - x_.low) * (kWidth - kLeft - kRight); }
  double at_y(double y) const {
    return kHeight - kBottom - (y - y_.low) / (y_.high - y_.low) * (kHeight - kTop - kBottom);
  }

  std::string axes(const Chart& chart) const {
    std::string out = cat("<text class=\"title\" x=\"", kLeft, "\" y=\"16\">", escape_html(chart.title), "</text>");
    for_ticks(y_, kTicks, [&](double value) {
      const std::string y = fixed(at_y(value));
      out += cat("<line class=\"grid\" x1=\"", kLeft, "\" x2=\"", kWidth - kRight, "\" y1=\"", y, "\" y2=\"", y,
                 "\"/><text class=\"tick\" text-anchor=\"end\" x=\"", kLeft - 6, "\" y=\"", fixed(at_y(value) + 4),
                 "\">", short_number(value), "</text>");
    });
    for_ticks(x_, 8, [&](double value) {
      out += cat("<text class=\"tick\" text-anchor=\"middle\" x=\"", fixed(at_x(value)), "\" y=\"",
                 kHeight - kBottom + 16, "\">", short_number(value), "</text>");
    });
    out += cat("<text class=\"tick\" text-anchor=\"middle\" x=\"", (kLeft + kWidth - kRight) / 2, "\" y=\"",
               kHeight - 4, "\">", escape_html(chart.x_label), "</text>");
    return out;
  }

  std::string line(const Series& series, const std::vector<std::pair<double, double>>& points) const {
    std::string path, marks;
    for (const auto& [x, y] : points) {
      const std::string px = fixed(at_x(x)), py = fixed(at_y(y));
      path += cat(path.empty() ? "M" : "L", px, " ", py);
      if (series.dots || points.size() == 1) {
        marks += cat("<circle class=\"", series.css, "\" cx=\"", px, "\" cy=\"", py, "\" r=\"3\"><title>",
                     escape_html(series.name), " at ", short_number(x), ": ", short_number(y), "</title></circle>");
      }
      if (series.best == x) {
        const bool left = at_x(x) > kWidth / 2;
        marks += cat("<circle class=\"best ", series.css, "\" cx=\"", px, "\" cy=\"", py,
                     "\" r=\"6\"/><text class=\"best\" text-anchor=\"", left ? "end" : "start", "\" x=\"",
                     fixed(at_x(x) + (left ? -10 : 10)), "\" y=\"", fixed(at_y(y) + (at_y(y) < kTop + 24 ? 20 : -10)),
                     "\">best: ", short_number(y), " at ", short_number(x), "</text>");
      }
    }
    return cat("<path class=\"", series.css, "\" d=\"", path, "\"/>", marks);
  }

 private:
  template <class Each>
  static void for_ticks(const Range& range, int most, Each&& each) {
    const double step = step_for(range.high - range.low, most);
    const double first = std::ceil(range.low / step - 1e-9);
    for (int i = 0; i <= most + 1 && (first + i) * step <= range.high + step * 1e-9; ++i) {
      const double value = (first + i) * step;
      each(std::abs(value) < step * 1e-9 ? 0.0 : value);
    }
  }

  Range x_, y_;
};

}  // namespace

std::string short_number(double value) { return format("{:.4g}", value); }

std::string escape_html(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string svg(const Chart& chart) {
  Range x, y;
  std::vector<std::vector<std::pair<double, double>>> lines;
  for (const Series& series : chart.series) {
    lines.push_back(drawn(series));
    for (const auto& [px, py] : lines.back()) x.add(px), y.add(py);
  }
  if (x.empty()) return cat("<p>", escape_html(chart.title), ": nothing was reported.</p>");
  if (chart.from_zero) y.add(0);
  x.widen();
  y.widen();
  y.round();
  const Frame frame(x, y);
  std::string out = cat("<svg viewBox=\"0 0 ", kWidth, " ", kHeight, "\" role=\"img\" aria-label=\"",
                        escape_html(chart.title), "\">", frame.axes(chart));
  std::string legend;
  for (size_t i = 0; i < lines.size(); ++i) {
    const Series& series = chart.series[i];
    if (lines[i].empty()) continue;
    out += frame.line(series, lines[i]);
    if (chart.series.size() < 2) continue;
    legend += cat("<tspan class=\"", series.css, "\" dx=\"12\">", escape_html(series.name), "</tspan>");
  }
  if (!legend.empty())
    out += cat("<text class=\"legend\" text-anchor=\"end\" x=\"", kWidth - kRight, "\" y=\"16\">", legend, "</text>");
  return out + "</svg>";
}

}  // namespace bumblebee::train
