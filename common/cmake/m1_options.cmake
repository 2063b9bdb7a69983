# Build options and the settings that hold for every target.
option(M1_BUILD_TESTS "Build the tests" ON)
option(M1_ENABLE_RPC "Build the gRPC services; OFF builds the libraries and engines without gRPC" ON)
option(M1_ENABLE_CUDA "Compile the CUDA kernels (needs nvcc 13)" OFF)
option(M1_ENABLE_PCH "Use precompiled headers for targets that include gRPC or gtest" ON)
option(M1_ENABLE_FUZZ "Build the fuzz targets with libFuzzer (clang only)" OFF)
set(M1_SANITIZER "" CACHE STRING "Sanitizers for every target, for example address,undefined")

set(M1_COMMIT "" CACHE STRING "Shown by m1_build_info; empty: the checkout's, if it is one")
if(NOT M1_COMMIT)
  execute_process(COMMAND git -C ${PROJECT_SOURCE_DIR} rev-parse --short HEAD OUTPUT_VARIABLE M1_COMMIT
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# NDEBUG stays off the release flags: M1_CHECK does not depend on it and abseil's own checks are cheap.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")

find_program(M1_CCACHE ccache)
if(M1_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${M1_CCACHE})
endif()
