# m1_cuda_library(NAME x HDRS ... SRCS a.cu ... DEPS ...): as m1_cc_library, compiled by nvcc.
#
# CMAKE_CUDA_ARCHITECTURES: 80 (A100), 90a (H100, H200), 100 (B200) unless given.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND EXISTS /usr/local/cuda/bin/nvcc)
  set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;100-real")
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
  message(FATAL_ERROR "M1_ENABLE_CUDA: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, want 13.0 or newer")
endif()
# CMake 3.25 does not know that nvcc has it.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)

# Numerics as on the CPU: no fused a*b + c*d that the source did not write, IEEE division and square
# root, subnormals flushed. Index maps are constexpr functions that host and device share.
add_library(m1_cuda_flags INTERFACE)
target_compile_options(m1_cuda_flags INTERFACE
  --expt-relaxed-constexpr -fmad=false -prec-div=true -prec-sqrt=true -ftz=true
  -Werror all-warnings -Xcompiler=-Wall,-Wextra,-Werror
  -Xptxas=-warn-spills)

function(m1_cuda_library)
  cmake_parse_arguments(ARG "" "NAME" "HDRS;SRCS;DEPS" ${ARGN})
  add_library(m1_${ARG_NAME} STATIC ${ARG_SRCS} ${ARG_HDRS})
  target_link_libraries(m1_${ARG_NAME} PUBLIC m1_build_flags ${ARG_DEPS} PRIVATE m1_cuda_flags)
  add_library(m1::${ARG_NAME} ALIAS m1_${ARG_NAME})
endfunction()

# NCCL's header beside the toolkit, or where CMAKE_PREFIX_PATH says; the library is loaded at run time. Without the header the
# exchange has no device links.
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
if(NCCL_INCLUDE_DIR)
  add_library(NCCL::nccl INTERFACE IMPORTED)
  target_include_directories(NCCL::nccl INTERFACE "${NCCL_INCLUDE_DIR}")
  target_link_libraries(NCCL::nccl INTERFACE ${CMAKE_DL_LIBS})
else()
  message(WARNING "M1_ENABLE_CUDA: no nccl.h found: the workers are built without device links (nccl: addresses use gRPC)")
endif()
