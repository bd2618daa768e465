// What the memory of this machine gives: the measure that everything else is held against.
#pragma once

namespace bumblebee {

/// Bytes per second that `threads` threads (0: as many as a pool takes) read from memory; takes about a second.
double read_bandwidth(int threads);

}  // namespace bumblebee
