// What stands at the end of the terminal and is drawn again and again: bars. Whoever else writes to standard error
// meanwhile does it above them, so that no line is erased and none is left torn.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace bumblebee::cli::overlay {

/// Draws these lines in place of those of the last time; none erases them. One bar at a time, from any thread. A line
/// that standard output has begun on the same terminal is ended first.
void draw(const std::vector<std::string>& lines);

/// Erases what is drawn, lets `write` write whole lines to standard error, and draws again. It too ends
/// a line that was begun.
void above(const std::function<void()>& write);

}  // namespace bumblebee::cli::overlay
