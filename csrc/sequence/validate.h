// What a call must satisfy before anything runs.
#pragma once
#include <gradcore/gradcore.h>

#include "sequence/network.h"
#include "sequence/purpose.h"

namespace gradcore {

// Looks at everything but the contents of arrays, which need not be there yet; the plan's
// operations are all this part's. Throws Error(GC_INVALID).
Purpose check_call(const Part& part, const gc_call& call);

// Whether the static inputs that the net reads, and what belongs to them, are there; throws
// Error(GC_INVALID).
void check_statics(const Network& net, const gc_call& call);
// Throws Error(GC_NONFINITE) and names the sequence in the call.
void check_static_values(const Network& net, gc_call& call);
// Looks at lengths, tokens and targets. Throws Error(GC_INVALID).
void check_contents(const Part& part, const gc_call& call);

}  // namespace gradcore
