// How a training went, in a sentence or two for whoever started it: whether the validation got better, where it turned,
// and what to change.
#pragma once

#include <string>

#include "bumblebee/train.h"

namespace bumblebee::train {

/// `passes`: how often each row was learned.
std::string verdict(const TrainResult& result, double passes);

}  // namespace bumblebee::train
