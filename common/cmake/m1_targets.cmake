# m1_cc_library, m1_cc_binary and m1_cc_test: the only way targets are made.
#
#   m1_cc_library(NAME log HDRS log.h SRCS log.cc DEPS absl::strings PRIVATE_DEPS ...)
#
# DEPS are PUBLIC (a header needs them); PRIVATE_DEPS serve the sources alone. A library without
# SRCS is an interface library. Targets are named m1_<NAME> with the alias m1::<NAME>.
# RPC marks a target that includes gRPC: it is skipped when M1_ENABLE_RPC is OFF and gets the
# precompiled gRPC headers.

add_library(m1_warnings INTERFACE)
target_compile_options(m1_warnings INTERFACE -Wall -Wextra -Wshadow -Wconversion -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(m1_warnings INTERFACE -Wthread-safety)
endif()

add_library(m1_build_flags INTERFACE)
target_include_directories(m1_build_flags INTERFACE ${PROJECT_SOURCE_DIR})
if(M1_SANITIZER)
  target_compile_options(m1_build_flags INTERFACE -fsanitize=${M1_SANITIZER} -fno-sanitize-recover=all)
  target_link_options(m1_build_flags INTERFACE -fsanitize=${M1_SANITIZER})
endif()

# Numeric code must round the same on every target: no fused a*b + c*d that the source did not write.
add_library(m1_exact_math INTERFACE)
target_compile_options(m1_exact_math INTERFACE -ffp-contract=off)

set(M1_GRPC_PCH <grpcpp/grpcpp.h> <absl/status/statusor.h> <string> <vector> <memory>)

function(_m1_configure TARGET SCOPE)
  if(SCOPE STREQUAL "INTERFACE")
    target_link_libraries(${TARGET} INTERFACE m1_build_flags)
  else()
    target_link_libraries(${TARGET} PUBLIC m1_build_flags PRIVATE m1_warnings)
  endif()
endfunction()

function(m1_cc_library)
  cmake_parse_arguments(ARG "RPC" "NAME" "HDRS;SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "m1_cc_library(${ARG_NAME}): unknown arguments ${ARG_UNPARSED_ARGUMENTS}")
  endif()
  if(ARG_RPC AND NOT M1_ENABLE_RPC)
    return()
  endif()
  if(ARG_SRCS)
    add_library(m1_${ARG_NAME} STATIC ${ARG_SRCS} ${ARG_HDRS})
    _m1_configure(m1_${ARG_NAME} PUBLIC)
    target_link_libraries(m1_${ARG_NAME} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
    if(ARG_RPC AND M1_ENABLE_PCH)
      target_precompile_headers(m1_${ARG_NAME} PRIVATE ${M1_GRPC_PCH})
    endif()
  else()
    add_library(m1_${ARG_NAME} INTERFACE)
    _m1_configure(m1_${ARG_NAME} INTERFACE)
    target_link_libraries(m1_${ARG_NAME} INTERFACE ${ARG_DEPS})
  endif()
  add_library(m1::${ARG_NAME} ALIAS m1_${ARG_NAME})
endfunction()

function(m1_cc_binary)
  cmake_parse_arguments(ARG "RPC" "NAME" "SRCS;DEPS" ${ARGN})
  if(ARG_RPC AND NOT M1_ENABLE_RPC)
    return()
  endif()
  add_executable(${ARG_NAME} ${ARG_SRCS})
  _m1_configure(${ARG_NAME} PRIVATE)
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS})
endfunction()

# m1_cc_test(NAME log_test SRCS log_test.cc DEPS m1::log [LABELS unit] [RPC])
# LABELS: unit (default), integration, gpu, slow, engine (what TSan runs); rpc by itself.
# The working directory of every test is the source tree's root, so golden files have relative paths.
function(m1_cc_test)
  cmake_parse_arguments(ARG "RPC" "NAME;TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(ARG_RPC AND NOT M1_ENABLE_RPC)
    return()
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(ARG_RPC)
    list(APPEND ARG_LABELS rpc)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${ARG_NAME} ${ARG_SRCS})
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  _m1_configure(${ARG_NAME} PRIVATE)
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

# All programs that need a GPU: in builds without CUDA there are none.
add_custom_target(m1_gpu_programs)

# m1_gpu_test(NAME x_test SRCS ... DEPS ...): what CudaKernelBackend computes. x_test runs it on a simulated GPU; builds with
# CUDA also have x_gpu_test, label gpu, which runs it on a real one and is skipped where there is none.
function(m1_gpu_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SRCS;DEPS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  m1_cc_test(NAME ${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS} m1::cuda_backend m1::simulated_gpu TIMEOUT ${ARG_TIMEOUT})
  if(NOT M1_ENABLE_CUDA)
    return()
  endif()
  string(REGEX REPLACE "_test$" "_gpu_test" real ${ARG_NAME})
  m1_cc_test(NAME ${real} SRCS ${ARG_SRCS} ${PROJECT_SOURCE_DIR}/tests/support/real_gpu_main.cc
    DEPS ${ARG_DEPS} m1::cuda_backend m1::cuda_kernels LABELS gpu TIMEOUT ${ARG_TIMEOUT})
  set_tests_properties(${real} PROPERTIES RESOURCE_LOCK gpu SKIP_RETURN_CODE 77)
  add_dependencies(m1_gpu_programs ${real})
endfunction()
