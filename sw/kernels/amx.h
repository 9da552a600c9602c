// The product on the matrix extension of Intel's server processors, where there is one.
#pragma once

#include "arguments.h"

// kDeclined with block scales and on other processors; words may have 1 or 2 bytes.
int multiply_by_amx(const Arguments& arguments);
