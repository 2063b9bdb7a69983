#!/usr/bin/env bash
# Ratios of what clusters on this machine do to what it allows, into BENCH.md. Makes the bench checkpoint (5 GB) under
# build/bench once. Wants an idle machine. Usage: scripts/bench.sh [--quick] [--repeats N] [--only NAME] [--model DIR] [--out FILE]
# --wide: instead, two layers of M1's width (8.4 GB) with all experts in the attention worker, into build/bench/wide.md.
# --quick: the embedded checkpoint, under a minute, into build/bench/quick.md.
# --peers [--llama_bench PATH --gguf FILE]: instead, ours beside transformers (installed under build/bench/peers, up to 6 GB) and
# a llama.cpp that is already there, into build/bench/peers.md.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

bin=build/release/bin checkpoint=build/bench/checkpoint config=models/bench/config.json
model="$checkpoint" out=BENCH.md run=(tools/bench/run_bench.py) arguments=()
for argument in "$@"; do
  case "$argument" in
    --quick) model=models/tiny out=build/bench/quick.md ;;
    --model | --model=*) checkpoint= ;;
    --wide)
      config=models/wide/config.json checkpoint=build/bench/wide model=build/bench/wide out=build/bench/wide.md
      arguments+=(--clusters inproc)
      continue
      ;;
    --peers)
      run=(tools/bench/peers.py --scratch build/bench/peers)
      continue
      ;;
  esac
  arguments+=("$argument")
done
[[ "${run[0]}" != tools/bench/peers.py ]] || out=build/bench/peers.md
mkdir -p build/bench
m1_install_packages "${M1_BUILD_PACKAGES[@]}" python3 python3-venv
m1_build release m1 m1-router m1-attention-worker m1-expert-worker >/dev/null
if [[ "$model" == "$checkpoint" && ! -f "$checkpoint/model.safetensors" ]]; then
  "$bin/m1" checkpoint make --config "$config" --out "$checkpoint"
  cp models/tiny/{tokenizer,tokenizer_config,generation_config}.json "$checkpoint/"
fi
repeats=(--repeats 5)
[[ "$model" != models/tiny ]] || repeats=(--repeats 1)
# Later flags win.
exec python3 "${run[@]}" --bin "$bin" --model "$model" --out "$out" "${repeats[@]}" "${arguments[@]}"
