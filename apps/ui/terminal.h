// What the program knows about its terminal: whether there is one, its width, colours, and writing to standard output
// with errors noticed.
#pragma once

#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>

namespace bumblebee::cli {

/// `automatic`: colours when the stream is a terminal and NO_COLOR is unset or empty.
enum class ColorMode : unsigned char { automatic, always, never };
void set_color_mode(ColorMode mode);

enum class Style : unsigned char { reset, error, dim, bold, prompt };

/// The escape sequence for `wanted`, or "" when `stream` gets no colours.
const char* style(std::FILE* stream, Style wanted);

bool is_terminal(std::FILE* stream);
/// Columns of the terminal behind stderr; 80 when unknown.
int terminal_columns();

/// Writes to standard output and flushes. Throws std::runtime_error when that fails (a full disk must not look like
/// success).
void write_out(std::string_view text);
/// Held by whoever writes to the terminal, so that threads do not write into each other's lines; write_out() takes it.
std::unique_lock<std::mutex> hold_terminal();
/// Ends a line that write_out() began on a terminal, if there is one. For who holds the terminal.
void end_line();

/// One line on standard error, "bumblebee: note: ...": what has no effect, or went another way than one might think.
void note(const std::string& text);

/// `text` with control characters as escapes, so that it stays on one line and cannot steer a terminal.
std::string one_line(std::string_view text);

/// "1.23 GB", decimal units as disks and downloads are counted.
std::string human_bytes(double bytes);
/// "134.5 M"
std::string human_count(double count);

}  // namespace bumblebee::cli
