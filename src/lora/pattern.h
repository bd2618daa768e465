// Python's regular expressions, which PEFT's configs use for names of modules. What Python takes is taken, or refused
// by name: a pattern that is half understood would pick the wrong modules.
#pragma once

#include <memory>
#include <string_view>

struct BbPattern;

namespace bumblebee::lora {

class Pattern {
 public:
  /// Throws Error(bad_config) for a pattern that Python refuses or that is too large, Error(unsupported) for another
  /// that is not understood. `where` names the file and key.
  Pattern(std::string_view text, std::string_view where);

  /// Whether the whole of `name` matches: re.fullmatch. Throws Error(bad_config) for a name that is no UTF-8 or has a
  /// line break, Error(unsupported) where look-around or back-references take too many steps.
  bool matches(std::string_view name) const;

  /// Steps of work per byte of a name, about.
  size_t cost() const { return cost_; }

 private:
  std::shared_ptr<const BbPattern> pattern_;
  size_t cost_ = 0;
};

}  // namespace bumblebee::lora
