# Sourced after setup.sh: a local cluster for a script's own use, ended with the script.

M1_CLUSTER=

# m1_start_cluster M1 LOG FLAG...: runs `M1 up`. Sets M1_CLUSTER (its pid) and M1_TARGET (where it answers).
m1_start_cluster() {
  local m1="$1" log="$2"
  shift 2
  "$m1" up --port 0 "$@" >"$log" &
  M1_CLUSTER=$!
  M1_TARGET=
  for _ in $(seq 1200); do
    M1_TARGET="$(sed -n 's/^ready //p' "$log")"
    [[ -z "$M1_TARGET" ]] || return 0
    kill -0 "$M1_CLUSTER" 2>/dev/null || { M1_CLUSTER=; m1_die "the cluster did not start"; }
    sleep 0.1
  done
  m1_die "the cluster is not ready after two minutes"
}

m1_stop_cluster() {
  [[ -z "$M1_CLUSTER" ]] || { kill -TERM "$M1_CLUSTER" 2>/dev/null && wait "$M1_CLUSTER" || true; }
  M1_CLUSTER=
}
