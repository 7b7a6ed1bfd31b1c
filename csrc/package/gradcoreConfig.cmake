# find_package(gradcore): the target gradcore::gradcore, for C, C++ and Cython projects.
include("${CMAKE_CURRENT_LIST_DIR}/gradcoreTargets.cmake")
