// Every cell: what cells.def lists.
#pragma once
#include "cells/antisymmetric.h"
#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/rnn.h"
