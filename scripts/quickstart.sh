#!/usr/bin/env bash
# From a fresh Debian 12 to an answer: installs what is missing, builds, starts a router, an attention worker and
# two expert workers on the embedded checkpoint, asks them one question, and ends them again.
# Usage: scripts/quickstart.sh [--stay] [QUESTION]
#   --stay   keeps the cluster running until Ctrl-C
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
source scripts/lib/cluster.sh

stay=0
if [[ "${1:-}" == --stay ]]; then
  stay=1
  shift
fi
question="${1:-764 + 621}"

m1_stage "install what is missing" m1_install_packages "${M1_BUILD_PACKAGES[@]}"
# A tree of its own options: no tests, so no test packages and half the time.
build_servers() {
  cmake --preset release -B build/quickstart -DM1_BUILD_TESTS=OFF >/dev/null
  cmake --build build/quickstart -j "$M1_JOBS" --target m1 m1-router m1-attention-worker m1-expert-worker
}
m1_stage "build" build_servers

m1=build/quickstart/bin/m1
out="$(mktemp -d)"
finish() {
  m1_stop_cluster
  rm -rf "$out"
}
trap finish EXIT

echo "=== start a router, an attention worker and two expert workers on models/tiny"
m1_start_cluster "$m1" "$out/up" --expert_workers 2
target="$M1_TARGET"

echo "=== ask: $question      (first its thought, then its answer)"
"$m1" generate --target "$target" --chat "$question" --max_new_tokens 400 --temperature 0

echo
if ((stay)); then
  echo "the cluster answers at $target and runs until Ctrl-C; from another terminal:"
else
  echo "the cluster ends now; $m1 up starts it again (--stay keeps it here), then:"
  target=127.0.0.1:50051
fi
echo "  $m1 chat --target $target"
echo "  $m1 generate --target $target --prompt 'One day' --max_new_tokens 20 --json"
echo "  .venv/bin/python examples/chat.py --target $target '9+882'      (scripts/test.sh makes .venv)"
if ((stay)); then
  trap 'kill -TERM "$M1_CLUSTER"' INT TERM
  wait "$M1_CLUSTER" || true
  wait "$M1_CLUSTER" 2>/dev/null || true
  M1_CLUSTER=
fi
