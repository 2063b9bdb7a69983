#!/usr/bin/env bash
# Makes the embedded checkpoint again, from nothing: data, training (about an hour of one core), export, evaluation
# through the server, model card. A run that was stopped goes on. Needs the release build (scripts/test.sh or
# `cmake --preset release && cmake --build --preset release`) and about 6 GB of disk for PyTorch.
# Usage: scripts/train.sh [OUT]      OUT: build/train/checkpoint unless given; models/tiny replaces the embedded one
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
source scripts/lib/cluster.sh

work=build/train
out="${1:-$work/checkpoint}"
python="$work/venv/bin/python"
bin=build/release/bin
budgets=0,8,16,32,48,64,96,128
[[ -x "$bin/m1" ]] || m1_die "build the servers first: $bin/m1 is missing"
mkdir -p "$work"

install() {
  [[ -x "$python" ]] || python3 -m venv "$work/venv"
  "$python" -m pip install --quiet --disable-pip-version-check -r tools/train/requirements.txt
}
make_data() { [[ -f "$work/data/documents.npy" ]] || "$python" tools/train/make_data.py --out "$work/data"; }
train() { "$python" tools/train/train.py --data "$work/data" --out "$work/run"; }
export_checkpoint() { "$python" tools/train/export.py --data "$work/data" --run "$work/run" --out "$out"; }

trap m1_stop_cluster EXIT
# serve ACTIVATION_DTYPE
serve() { m1_start_cluster "$bin/m1" "$work/up" --model "$out" --activation_dtype "$1"; }
# With fp32 activations the server must give what export.py computed, id by id; the card says what users get.
compare() {
  serve fp32
  "$python" tools/train/evaluate.py --target "$M1_TARGET" --questions "$out/held_out.jsonl" --expect "$work/run/outputs.jsonl"
  m1_stop_cluster
}
evaluate() {
  serve bf16
  "$python" tools/train/evaluate.py --target "$M1_TARGET" --questions "$out/held_out.jsonl" --budgets "$budgets" --report "$work/report.json"
  m1_stop_cluster
  "$python" tools/train/model_card.py --report "$work/report.json" --out "$out"
}

m1_stage "install PyTorch and the like into $work/venv" install
m1_stage "check the model against itself" "$python" tools/train/check_model.py
m1_stage "data" make_data
m1_stage "training" train
m1_stage "export, and its own answers" export_checkpoint
m1_stage "the server's answers with fp32 activations" compare
m1_stage "accuracy and thinking budgets through the server" evaluate
m1_print_stages
echo "the checkpoint is in $out"
