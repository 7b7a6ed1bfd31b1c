// What a call must satisfy before anything runs.
#pragma once
#include <gradcore/gradcore.h>

#include <vector>

#include "sequence/border_shape.h"
#include "sequence/network.h"
#include "sequence/purpose.h"

namespace gradcore {

// Whether every part has steps, and resets do not meet windows that they would cut; throws
// Error(GC_INVALID).
void check_steps(const std::vector<Part>& parts, const gc_call& call);

// Looks at everything but the contents of arrays, which need not be there yet; the plan's
// operations are all this part's. Throws Error(GC_INVALID).
Purpose check_call(const Part& part, const gc_call& call);

// Look at lengths; and at tokens and targets. Throw Error(GC_INVALID).
void check_lengths(const gc_call& call);
void check_contents(const Part& part, const gc_call& call, const Source& source);

}  // namespace gradcore
