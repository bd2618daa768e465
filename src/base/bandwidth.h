// What the memory of this machine gives: the measure that everything else is held against.
#pragma once

namespace bumblebee {

/// Bytes per second that `threads` threads (0: as many as a pool takes) read from memory, which lies in huge pages
/// where the system has them; takes about a second.
double read_bandwidth(int threads);

}  // namespace bumblebee
