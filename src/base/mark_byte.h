// A byte that no UTF-8 has. Where a model's marks are control tokens, it goes before each mark that one of them
// spelled, from the tokens to the parsers, so that the same characters in ordinary text are none. No caller ever sees
// it.
#pragma once

namespace bumblebee {

inline constexpr char kMarkByte = '\xFF';

}  // namespace bumblebee
