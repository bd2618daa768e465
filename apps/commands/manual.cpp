// Text to roff: the flags by their groups, footers as they stand.
#include "commands/manual.h"

#include <algorithm>
#include <cctype>
#include <sstream>
#include <vector>

#include "bumblebee/version.h"
#include "options/parser.h"

namespace bumblebee::cli {

namespace {

/// Characters that roff reads as something else; a line must not begin with a dot or a quote.
std::string roff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) {
      out += std::string("\\&") + c;
    } else {
      out += c;
    }
  }
  return out;
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return char(std::toupper(c)); });
  return text;
}

std::string heading(const std::string& page, const std::string& does) {
  return ".TH " + upper(page) + " 1 \"\" \"bumblebee " + std::string(version()) + "\"\n.SH NAME\n" + roff(page) +
         " \\- " + roff(does) + "\n";
}

std::string entry(const Option& option) {
  std::string names;
  for (const std::string& name : option.short_names())
    names += (names.empty() ? "" : ", ") + ("\\fB\\-" + name + "\\fR");
  for (const std::string& name : option.long_names())
    names += (names.empty() ? "" : ", ") + ("\\fB\\-\\-" + roff(name) + "\\fR");
  if (names.empty()) names = "\\fI" + roff(option.positional_name()) + "\\fR";
  if (option.takes_value() && !option.value_name().empty()) names += " \\fI" + roff(option.value_name()) + "\\fR";
  return ".TP\n" + names + "\n" + roff(option.description()) + "\n";
}

std::string as_it_stands(const std::string& title, const std::string& text) {
  return ".SH " + title + "\n.nf\n" + roff(text) + "\n.fi\n";
}

std::string verb_page(const Parser& verb) {
  std::string out = heading("bumblebee-" + verb.name(), verb.description());
  out += ".SH SYNOPSIS\n\\fBbumblebee " + roff(verb.name()) + "\\fR [\\fIOPTIONS\\fR]";
  for (const Option* option : verb.options()) {
    if (option->long_names().empty() && !option->positional_name().empty())
      out += " [\\fI" + roff(option->positional_name()) + "\\fR]";
  }
  out += "\n.SH OPTIONS\n";
  std::vector<std::string> groups;
  for (const Option* option : verb.options()) {
    if (std::find(groups.begin(), groups.end(), option->heading()) == groups.end()) groups.push_back(option->heading());
  }
  for (const std::string& group : groups) {
    if (group != "Options") out += ".SS " + roff(group) + "\n";
    for (const Option* option : verb.options()) {
      if (option->heading() == group) out += entry(*option);
    }
  }
  return out + as_it_stands("NOTES", verb.footer()) + ".SH SEE ALSO\n\\fBbumblebee\\fR(1)\n";
}

std::string program_page(const Parser& app) {
  std::string out = heading("bumblebee", app.description());
  out += ".SH SYNOPSIS\n\\fBbumblebee\\fR \\fIVERB\\fR [\\fIOPTIONS\\fR]\n.SH VERBS\n";
  for (const Parser* verb : app.verbs())
    out += ".TP\n\\fB" + roff(verb->name()) + "\\fR\n" + roff(verb->description()) + "; see \\fBbumblebee\\-" +
           roff(verb->name()) + "\\fR(1)\n";
  return out + as_it_stands("NOTES", app.footer());
}

}  // namespace

std::string manual_page(const Parser& app, const Parser* verb) {
  return verb == nullptr ? program_page(app) : verb_page(*verb);
}

}  // namespace bumblebee::cli
