#!/usr/bin/env bash
# The slower checks: AddressSanitizer + UBSan on everything, ThreadSanitizer on engines and policy, clang's
# thread-safety analysis, clang-tidy, fuzzing, and the CUDA kernels through nvcc. Usage: scripts/check.sh
#   M1_FUZZ_SECONDS  seconds for each fuzz target (default 20)
#   M1_TIDY_SECONDS  clang-tidy starts no further file after this many seconds (default 600; 0: all files)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
M1_FUZZ_SECONDS="${M1_FUZZ_SECONDS:-20}"
M1_TIDY_SECONDS="${M1_TIDY_SECONDS:-600}"
# A leak is a failure as well; reports name lines.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:strict_string_checks=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}"

install() {
  m1_install_packages "${M1_BUILD_PACKAGES[@]}" "${M1_TEST_PACKAGES[@]}" "${M1_CHECK_PACKAGES[@]}"
  m1_install_python
}

# Names of a preset's tests, one a line. $2...: options of ctest.
list_tests() {
  local preset="$1"
  shift
  cmake --preset "$preset" >/dev/null
  ctest --preset "$preset" -N "$@" | sed -n 's/^ *Test *#[0-9]*: //p' | sort
}

# Of the given tests, those that are a target of the same name; others are scripts.
test_targets() {
  local preset="$1"
  shift
  comm -12 <(ninja -C "build/$preset" -t targets all | sed -n 's/: phony$//p' | sort) <(printf '%s\n' "$@" | sort)
}

asan_libraries() {
  m1_build asan
  ctest --preset asan -j "$M1_JOBS" -LE 'gpu|slow|integration|lint' --no-tests=error
}

# Only what asan_libraries could not run without gRPC: the processes and the tests that need it.
asan_services() {
  local tests targets
  mapfile -t tests < <(comm -23 <(list_tests asan-services -LE 'gpu|slow|lint') <(list_tests asan))
  ((${#tests[@]})) || m1_die "no test needs gRPC"
  mapfile -t targets < <(test_targets asan-services "${tests[@]}")
  m1_build asan-services m1 m1-router m1-attention-worker m1-expert-worker "${targets[@]}"
  # These wait on time and may fail once, but not with a report: reports of all runs are kept and end the stage.
  local reports=build/asan-services/reports
  rm -rf "$reports" && mkdir -p "$reports"
  ASAN_OPTIONS="$ASAN_OPTIONS:log_path=$PWD/$reports/report" UBSAN_OPTIONS="$UBSAN_OPTIONS:log_path=$PWD/$reports/report" \
    ctest --preset asan-services -j "$M1_JOBS" --no-tests=error --repeat until-pass:2 -R "^($(IFS='|'; echo "${tests[*]}"))\$" ||
    { cat "$reports"/* 2>/dev/null; m1_die "tests of the services failed"; }
  # A file may hold no more than the warning that makecontext, which the simulated GPU uses, is not fully supported.
  if grep -sE 'ERROR: |SUMMARY: |runtime error: ' "$reports"/*; then
    cat "$reports"/*
    m1_die "a sanitizer has reported"
  fi
}

# integration_tests BIN FILE...: against the processes of BIN.
integration_tests() {
  local bin="$1"
  shift
  M1_BIN="$bin" .venv/bin/python -m pytest -q -s -p no:cacheprovider --durations=5 "${@/#/tests/integration/}"
}

# Hostile clients, files and peers, what a client does, the mixed load, and kills over shared memory, against the instrumented processes. A report
# of a sanitizer ends the process with its own exit code, which the tests do not accept.
asan_services_integration() {
  M1_MIXED_REQUESTS=60 integration_tests build/asan-services/bin test_hostile.py test_client.py test_mixed.py test_order.py \
    test_shared_memory.py test_security.py
}

# Only the tests that run threads of ours: label engine.
tsan() {
  local targets
  mapfile -t targets < <(list_tests tsan -L engine)
  if ((${#targets[@]} == 0)); then
    m1_die "no test has the label engine"
  fi
  m1_build tsan "${targets[@]}"
  ctest --preset tsan -j "$M1_JOBS" -L engine --no-tests=error
}

# As the ordinary suite, with many more deaths.
failover() {
  M1_KILL_STRIDE=8 M1_KILL_ROUNDS=6 integration_tests build/quickstart/bin test_failover.py
}

# As the ordinary suite, with more requests.
load() {
  M1_MIXED_REQUESTS=300 M1_DEADLINES=100 integration_tests build/quickstart/bin test_mixed.py test_order.py
}

# Every held-out question of the embedded model, twice; the ordinary suite asks each tenth.
held_out() {
  M1_HELD_OUT_STRIDE=1 integration_tests build/quickstart/bin test_held_out.py
}

# As the ordinary suite, with a prompt of 262 144 tokens.
long_context() {
  M1_LONG_PROMPT_TOKENS=262144 integration_tests build/quickstart/bin test_long_context.py
}

# Those of minutes, most of them of the simulated GPU.
slow_tests() {
  m1_build release
  .venv/bin/python -m pytest tests/integration tests/deploy -m slow -q -p no:cacheprovider --durations=8
}

fuzz() {
  local target found=0
  m1_build fuzz m1_fuzzers
  for target in build/fuzz/fuzz/*_fuzz; do
    [[ -x "$target" ]] || continue
    scripts/lib/fuzz_one.sh "$target" "$M1_FUZZ_SECONDS"
    found=1
  done
  ((found)) || m1_die "no fuzz target was built"
}

# For every architecture, with warnings as errors, and all programs that run on a GPU. None is needed here.
cuda() {
  m1_require_nvcc
  m1_build cuda m1_cuda_kernels m1_gpu_programs
}

m1_stage "install what is missing" install
m1_stage "CUDA kernels and programs: compile" cuda
m1_stage "clang build with thread-safety analysis" m1_build clang-analysis
m1_stage "clang-tidy" scripts/lib/clang_tidy.sh build/clang-analysis "$M1_TIDY_SECONDS" "$M1_JOBS"
m1_stage "tsan: engines and policy" tsan
m1_stage "fuzz" fuzz
m1_stage "asan+ubsan build and tests, libraries without gRPC" asan_libraries
m1_stage "asan+ubsan build and tests of the services" asan_services
m1_stage "asan+ubsan integration tests" asan_services_integration
m1_stage "quickstart" scripts/quickstart.sh
m1_stage "slow integration tests" slow_tests
m1_stage "failover" failover
m1_stage "load" load
m1_stage "long context" long_context
m1_stage "held-out questions" held_out
m1_print_stages
echo "check.sh: passed"
