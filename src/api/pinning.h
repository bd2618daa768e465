// The public choice of where threads run, as the pool takes it.
#pragma once

#include "base/topology.h"
#include "bumblebee/device.h"

namespace bumblebee::api {

inline Pin pin_of(Pinning pinning) {
  switch (pinning) {
    case Pinning::none: return Pin::none;
    case Pinning::cores: return Pin::cores;
    case Pinning::automatic: break;
  }
  return Pin::automatic;
}

}  // namespace bumblebee::api
