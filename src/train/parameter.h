// What an optimizer sees: named f32 values with their gradient. Knows no model and no device.
#pragma once

#include <string>
#include <vector>

namespace bumblebee::train {

struct Parameter {
  std::string name = {};             // as mlx-lm names it: "model.layers.0.self_attn.q_proj.lora_a"
  int rows = 0, cols = 0;            // as stored here; rows is 1 for a vector
  bool turned = false;               // mlx-lm stores the transpose: matters where an optimizer tells rows from columns
  float rate_ratio = 1;              // multiplies the learning rate (LoRA+)
  std::vector<float> values = {};    // [rows, cols]
  std::vector<float> gradient = {};  // [rows, cols] summed over what was scored since the last update

  bool is_matrix() const { return rows > 1; }
};

}  // namespace bumblebee::train
