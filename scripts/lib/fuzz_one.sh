#!/usr/bin/env bash
# Fuzzes one target for a bounded time from its seed corpus. Usage: fuzz_one.sh BINARY SECONDS
# An input that takes over a minute is a finding: machines that fuzz stall for shorter times.
# New inputs go to a folder beside the binary; the seeds in tests/fuzz/corpus/ stay as they are.
set -euo pipefail
binary="$1"
seconds="$2"
name="$(basename "$binary")"
seeds="tests/fuzz/corpus/$name"
found="$binary.corpus"
log="$binary.log"
mkdir -p "$found"
inputs=("$found")
[[ -d "$seeds" ]] && inputs+=("$seeds")
if ! "$binary" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 -max_len=65536 \
  -print_final_stats=1 -artifact_prefix="$binary.crash." "${inputs[@]}" >"$log" 2>&1; then
  tail -n 80 "$log"
  echo "error: $name found a failing input: $binary.crash.*" >&2
  exit 1
fi
runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
echo "$name: ${runs:-0} inputs in $seconds s, no finding"
