// The one place that knows the version; the build passes it in.
#include "bumblebee/version.h"

namespace bumblebee {

const char* version() { return BB_VERSION; }

}  // namespace bumblebee
