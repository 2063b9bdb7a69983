#!/usr/bin/env bash
# Builds with CUDA and packs what scripts/gpu_check.sh needs on another machine: build/gpu_bundle.tar.xz, at most 64 MiB.
# Needs nvcc, no GPU. Usage: scripts/gpu_bundle.sh [ARCHITECTURE...]      as CMAKE_CUDA_ARCHITECTURES; default 90a-real (H100, H200)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
architectures=("${@:-90a-real}")
build=build/gpu

m1_install_packages "${M1_BUILD_PACKAGES[@]}" libgtest-dev libgmock-dev python3 git
m1_require_nvcc
# The bundle's programs find its libraries beside them, for their libraries' libraries, too: that is DT_RPATH, not DT_RUNPATH.
cmake --preset cuda -B "$build" "-DCMAKE_CUDA_ARCHITECTURES=$(IFS=';'; echo "${architectures[*]}")" \
  '-DCMAKE_BUILD_RPATH=$ORIGIN/../lib' -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags >/dev/null
mapfile -t programs < <(
  ctest --test-dir "$build" -N -L '^gpu$' | sed -n 's/^ *Test *#[0-9]*: //p'
  ninja -C "$build" -t targets all | sed -n 's/^\(gpu_bench\): phony$/\1/p'
)
((${#programs[@]})) || m1_die "no test has the label gpu"
cmake --build "$build" -j "$M1_JOBS" --target m1 m1-router m1-attention-worker m1-expert-worker "${programs[@]}"
python3 tools/gpu_check/bundle.py --build "$build"
