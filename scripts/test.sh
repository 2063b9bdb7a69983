#!/usr/bin/env bash
# Builds and tests everything that a change must keep working: release build, all tests, integration tests
# against the real processes. Sanitizers are in check.sh.
# Under 25 minutes on 2 cores from nothing. Usage: scripts/test.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

install() {
  m1_install_packages "${M1_BUILD_PACKAGES[@]}" "${M1_TEST_PACKAGES[@]}"
  m1_install_python
}
# Tests with servers wait on time and may fail once; the others may not.
release_tests() {
  ctest --preset release -j "$M1_JOBS" -LE 'gpu|slow|rpc' --no-tests=error
  ctest --preset release -j "$M1_JOBS" -L rpc -LE 'gpu|slow' --no-tests=error --repeat until-pass:2
}
# pytest's exit code 5 is "no test collected": an error here too.
integration() { .venv/bin/python -m pytest tests/integration tests/deploy -m 'not slow' -q -p no:cacheprovider --durations=8; }

m1_stage "install what is missing" install
m1_stage "release build" m1_build release
m1_stage "release tests" release_tests
m1_stage "integration tests" integration
m1_print_stages
echo "test.sh: passed"
