// Whether this process may use the tiles of AMX.
#pragma once

namespace bumblebee::cpu {

/// Whether the processor multiplies int8 in tiles of the size that the kernels are written for, and the system has them
/// for processes that ask. Asks for nothing.
bool has_tiles();

/// The same, and the system lets this process use them. Asks it once, for all threads of the process; what it grants
/// stays granted.
bool may_use_tiles();

}  // namespace bumblebee::cpu
