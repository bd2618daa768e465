// What happens to logits between the head and whoever reads them.
#pragma once

namespace bumblebee {

/// logits·factor, then cap·tanh(logits/cap); a cap of 0: none.
struct LogitParams {
  float factor = 1, cap = 0;
};

}  // namespace bumblebee
