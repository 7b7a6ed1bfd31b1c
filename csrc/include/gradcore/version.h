// The only place where the version is written; pyproject.toml and CMakeLists.txt read it from here.
#pragma once

#define GRADCORE_VERSION "0.1.0"
#define GRADCORE_ABI_VERSION 1
