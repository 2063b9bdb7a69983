#!/usr/bin/env bash
# clang-tidy with the checks of .clang-tidy on our sources. Usage: clang_tidy.sh BUILD_DIR SECONDS JOBS
# Recently changed files come first; past SECONDS no further file is started (0: no limit). Any finding fails.
set -euo pipefail
build_dir="$1"
limit="$2"
jobs="$3"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# Our .cc files that this build compiles, the ones of the last commits first.
git ls-files '*.cc' | sort >"$work/ours"
python3 - "$build_dir" <<'PY' | sort >"$work/built"
import json, os, sys
for entry in json.load(open(os.path.join(sys.argv[1], "compile_commands.json"))):
    print(os.path.relpath(os.path.join(entry["directory"], entry["file"])))
PY
sort -u "$work/built" | comm -12 "$work/ours" - >"$work/candidates"
git log -n 20 --name-only --format= -- '*.cc' 2>/dev/null | awk '!seen[$0]++' >"$work/recent" || true
{
  grep -Fxf "$work/candidates" "$work/recent" || true
  cat "$work/candidates"
} | awk '!seen[$0]++' >"$work/files"

check_one() {
  local file="$1"
  if ((limit > 0 && $(date +%s) - start > limit)); then
    echo "$file" >>"$work/skipped"
    return 0
  fi
  if ! clang-tidy --quiet -p "$build_dir" "$file" >"$work/out.$$" 2>"$work/err.$$"; then
    { echo "--- $file"; cat "$work/out.$$"; grep -E 'error:' "$work/err.$$" || true; } >>"$work/findings"
  fi
  echo "$file" >>"$work/checked"
}
export -f check_one
start="$(date +%s)"
export start limit build_dir work
touch "$work/checked" "$work/skipped" "$work/findings"
xargs -a "$work/files" -P "$jobs" -I{} bash -c 'check_one {}'

echo "clang-tidy: $(wc -l <"$work/checked") files checked, $(wc -l <"$work/skipped") left out for time"
if [[ -s "$work/findings" ]]; then
  cat "$work/findings"
  echo "error: clang-tidy has findings" >&2
  exit 1
fi
