#!/usr/bin/env bash
# In a working container of buildah's, with its user, from /usr/share/m1. SIGTERM goes to the command, which buildah would kill.
# Usage: run_in_image.sh STORAGE CONTAINER COMMAND...; STORAGE holds storage/ and run/
set -euo pipefail
root="$1"
container="$2"
shift 2

# The process below $1 that has no child of its own.
innermost() {
  local pid="$1" child
  while child="$(pgrep -P "$pid" | head -n 1)" && [[ -n "$child" ]]; do pid="$child"; done
  echo "$pid"
}

buildah --root "$root/storage" --runroot "$root/run" run --isolation chroot --workingdir /usr/share/m1 "$container" -- "$@" &
buildah=$!
trap 'kill -TERM "$(innermost "$buildah")"' TERM INT
code=0
wait "$buildah" || code=$?
# A signal ends the first wait; what counts is how the command ends.
while kill -0 "$buildah" 2>/dev/null; do
  code=0
  wait "$buildah" || code=$?
done
exit "$code"
