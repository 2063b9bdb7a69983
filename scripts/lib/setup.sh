# Sourced by the scripts beside it: where things are, installing what is missing, building, timing stages.
# Installs only what is not there: Debian packages with apt-get (as root or through sudo), Python packages
# of tests/requirements.txt into .venv. With everything present nothing touches the network.

M1_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
M1_JOBS="${M1_JOBS:-$(nproc)}"
cd "$M1_ROOT"

# ccache works across clones and with precompiled headers.
export CCACHE_DIR="${CCACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ccache}"
export CCACHE_BASEDIR="$M1_ROOT" CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros

M1_BUILD_PACKAGES=(
  build-essential cmake ninja-build ccache pkg-config
  libabsl-dev libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libc-ares-dev
  nlohmann-json3-dev libpcre2-dev libssl-dev prometheus-cpp-dev zlib1g-dev
)
M1_TEST_PACKAGES=(libgtest-dev libgmock-dev python3 python3-venv git openssl prometheus prometheus-alertmanager)
M1_CHECK_PACKAGES=(clang clang-tidy clang-tools libclang-rt-dev)

m1_die() {
  echo "error: $*" >&2
  exit 1
}

# m1_install_packages PACKAGE...
m1_install_packages() {
  local package missing=()
  for package in "$@"; do
    # No pipe into grep -q: with pipefail a closed pipe would read as "not installed".
    [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" == installed ]] ||
      missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || m1_die "needs Debian 12 (no apt-get) or these by hand: ${missing[*]}"
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || m1_die "run as root or install sudo; missing: ${missing[*]}"
    as_root=(sudo)
  fi
  echo "installing: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Makes .venv with exactly tests/requirements.txt; again when that file changed.
m1_install_python() {
  local stamp=.venv/requirements.installed
  if [[ -x .venv/bin/python ]] && cmp -s tests/requirements.txt "$stamp"; then return 0; fi
  echo "installing Python packages of tests/requirements.txt into .venv"
  [[ -x .venv/bin/python ]] || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$stamp"
}

# The CUDA toolkit is no Debian package and is not installed from here.
m1_require_nvcc() {
  local nvcc
  nvcc="$(command -v nvcc || true)"
  [[ -n "$nvcc" ]] || nvcc=/usr/local/cuda/bin/nvcc
  [[ -x "$nvcc" ]] || m1_die "no nvcc in PATH or /usr/local/cuda/bin: install the CUDA toolkit, 13.0 or newer"
}

# m1_build PRESET [TARGET...]
m1_build() {
  local preset="$1"
  shift
  cmake --preset "$preset" >"/tmp/m1_configure_$$.log" 2>&1 || {
    cat "/tmp/m1_configure_$$.log"
    m1_die "configuring preset $preset failed"
  }
  rm -f "/tmp/m1_configure_$$.log"
  local targets=()
  (($# == 0)) || targets=(--target "$@")
  cmake --build --preset "$preset" -j "$M1_JOBS" "${targets[@]}"
}

# m1_stage "what" command...: prints what runs and how long it took. A failure ends the script.
m1_stage() {
  local what="$1" start=$SECONDS
  shift
  echo "=== $what"
  "$@"
  M1_STAGES+=("$(printf '%5d s  %s' $((SECONDS - start)) "$what")")
}
M1_STAGES=()

m1_print_stages() {
  printf '%s\n' "--- stages of $(basename "$0")" "${M1_STAGES[@]}" "$(printf '%5d s  in all' "$SECONDS")"
}
