#include "check.h"

GRADCORE_TEST_MAIN
