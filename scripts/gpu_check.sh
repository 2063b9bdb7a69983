#!/usr/bin/env bash
# Everything that only a GPU can say, in one run of under 8 minutes: JSON, logs and a table into build/gpu_check.
# On a machine with an NVIDIA GPU and python3; programs come from the archive of scripts/gpu_bundle.sh.
# Usage: scripts/gpu_check.sh [--bundle DIR|ARCHIVE] [--out DIR] [--only NAME] [--simulated]; --help says more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 exec python3 tools/gpu_check/gpu_check.py "$@"
