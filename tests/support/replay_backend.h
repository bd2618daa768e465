// The replay law without a GPU: a device named "replay" around the reference that records a repeatable step once per
// key, as a tape of operations, and runs it from the tape ever after, the first time included. What a device with
// graphs would break on breaks here: a body that reads inside, or assigns its result outside; a branch on what the key
// does not say; a tensor of a step used after it, or a result looked at after the second next step (both are poisoned);
// results looked at before they were awaited; padding rows that something depends on.
#pragma once

#include "backend/backend.h"

namespace bumblebee::testing_support {

/// Makes "replay" known to the registry, once.
void register_replay_backend();

/// How often bodies ran and tapes were played, over all replay backends of this process: a test that replays nothing
/// proves nothing.
struct ReplayCounts {
  int recorded = 0, played = 0;
};
ReplayCounts replay_counts();

}  // namespace bumblebee::testing_support
