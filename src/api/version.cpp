// The one place that knows version and commit; the build passes them in.
#include "bumblebee/version.h"

namespace bumblebee {

const char* version() { return BB_VERSION; }

const char* commit() { return BB_COMMIT; }

}  // namespace bumblebee
