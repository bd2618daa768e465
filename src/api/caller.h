// run() and stream(): requests whose caller waits for them, and hears of them on its own thread.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "bumblebee/generation.h"

namespace bumblebee::text::detail {

class Generator;

/// `piece` hears the text of each input, the first one's first; empty: nobody does. Inputs beyond the serving's queue
/// follow as places come free.
std::vector<Result> call(Generator& generator, std::span<const Input> inputs,
                         const std::function<bool(size_t input, std::string_view piece)>& piece);

}  // namespace bumblebee::text::detail
