#!/usr/bin/env bash
# Builds the images with buildah, without a daemon, and runs what is in them: hadolint, user, labels, sizes, every
# program's --help, and compose's cluster with the servers inside their images, which must answer. Slow: compiles once more,
# for GPUs a second time. As root, on Debian 12; no GPU is needed. Usage: scripts/images.sh
#   M1_IMAGES_ROOT  where images and layers are kept between runs (default /var/tmp/m1-images)
#   M1_IMAGES_PULL  1: the base comes from its registry; default 0: from Debian's mirror, by debootstrap
#   M1_IMAGES_CUDA  architectures of the workers for GPUs, as CMAKE_CUDA_ARCHITECTURES; default the Dockerfile's; none: not built
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"
M1_IMAGES_ROOT="${M1_IMAGES_ROOT:-/var/tmp/m1-images}"
M1_IMAGES_PULL="${M1_IMAGES_PULL:-0}"
TARGETS=(router attention-worker expert-worker cli)
CUDA_TARGETS=(attention-worker-cuda expert-worker-cuda)
DOCKERFILE=deploy/images/Dockerfile
M1_IMAGES_CUDA="${M1_IMAGES_CUDA:-$(sed -n 's/^ARG CUDA_ARCHITECTURES="\(.*\)"/\1/p' "$DOCKERFILE")}"
if [[ "$M1_IMAGES_CUDA" == none ]]; then CUDA_TARGETS=(); fi
VERSION="$(sed -n 's/^ARG VERSION=//p' "$DOCKERFILE")"
COMMIT="$(git rev-parse --short HEAD)"
BASE=localhost/m1-base:bookworm
# Nothing of this machine's own containers is touched. Chroots: neither namespaces nor cgroups are asked for.
export STORAGE_DRIVER="${STORAGE_DRIVER:-overlay}" BUILDAH_ISOLATION=chroot BUILDAH_FORMAT=docker
m1_buildah() { buildah --root "$M1_IMAGES_ROOT/storage" --runroot "$M1_IMAGES_ROOT/run" "$@"; }
image() { echo "localhost/m1-serve/$1:$VERSION"; }

install() {
  ((EUID == 0)) || m1_die "scripts/images.sh: run as root, chroots need it"
  m1_install_packages "${M1_TEST_PACKAGES[@]}" buildah debootstrap ca-certificates
  m1_install_python
  mkdir -p "$M1_IMAGES_ROOT"
}

# program TARGET: the name of its program.
program() {
  local name="m1-${1%-cuda}"
  if [[ "$1" == cli ]]; then name=m1; fi
  echo "$name"
}

# What the registry calls debian:bookworm-slim is this and a few files less.
base_from_mirror() {
  if m1_buildah inspect --type image "$BASE" >/dev/null 2>&1; then return 0; fi
  local folder="$M1_IMAGES_ROOT/base"
  rm -rf "$folder"
  debootstrap --variant=minbase bookworm "$folder/root" >"$M1_IMAGES_ROOT/debootstrap.log" ||
    m1_die "debootstrap failed, see $M1_IMAGES_ROOT/debootstrap.log"
  cat >"$folder/root/etc/apt/sources.list" <<'LIST'
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
LIST
  rm -rf "$folder/root/var/cache/apt/archives/"*.deb "$folder/root/var/lib/apt/lists/"*
  tar -C "$folder/root" -czf "$folder/base.tar.gz" .
  rm -rf "$folder/root"
  printf 'FROM scratch\nADD base.tar.gz /\nCMD ["bash"]\n' >"$folder/Dockerfile"
  m1_buildah bud --quiet -f "$folder/Dockerfile" -t "$BASE" "$folder" >/dev/null
  rm -rf "$folder"
}

build() {
  local target from=(--pull-never --build-arg "DEBIAN=$BASE")
  if [[ "$M1_IMAGES_PULL" == 1 ]]; then from=(); fi
  for target in "${TARGETS[@]}" "${CUDA_TARGETS[@]}"; do
    m1_buildah bud --layers "${from[@]}" --build-arg "COMMIT=$COMMIT" \
      --build-arg "CMAKE_BUILD_PARALLEL_LEVEL=$M1_JOBS" --build-arg "CUDA_ARCHITECTURES=$M1_IMAGES_CUDA" \
      --secret id=ca-certificates,src=/etc/ssl/certs/ca-certificates.crt --ignorefile "$DOCKERFILE.dockerignore" -f "$DOCKERFILE" \
      --target "$target" -t "$(image "$target")" . >"$M1_IMAGES_ROOT/build-$target.log" 2>&1 || {
      tail -40 "$M1_IMAGES_ROOT/build-$target.log"
      m1_die "building $target failed"
    }
  done
}

# inside TARGET COMMAND...: as a container of that image would run it.
inside() {
  local target="$1"
  shift
  scripts/lib/run_in_image.sh "$M1_IMAGES_ROOT" "m1-$target" "$@"
}

check_target() {
  local target="$1" config said
  config="$(m1_buildah inspect --type image "$(image "$target")")"
  IMAGE_CONFIG="$config" .venv/bin/python - "$target" "$VERSION" <<'PYTHON'
import json, os, sys
target, version = sys.argv[1:]
config = json.loads(os.environ["IMAGE_CONFIG"])["Docker"]["config"]
assert config["User"] == "65532:65532", config["User"]
assert config["StopSignal"] == "SIGTERM" and config["Entrypoint"][0].startswith("/usr/bin/m1")
cuda = target.endswith("-cuda")
assert ("--device=cuda" in config["Entrypoint"]) == ("NVIDIA_VISIBLE_DEVICES=all" in config["Env"]) == cuda, config
assert config["Labels"]["org.opencontainers.image.version"] == version
assert config["Labels"]["org.opencontainers.image.revision"]
checked = config["Healthcheck"]["Test"]
assert checked == ["NONE"] if target == "cli" else checked[:3] == ["CMD", "/usr/bin/m1", "health"], checked
PYTHON
  m1_buildah rm "m1-$target" >/dev/null 2>&1 || true
  m1_buildah from --pull-never --name "m1-$target" "$(image "$target")" >/dev/null
  [[ "$(inside "$target" id -u)" == 65532 ]] || m1_die "$target runs as another user"
  said="$(inside "$target" find / -xdev -writable -type f -not -path '/proc/*' -not -path '/sys/*' -not -path '/dev/*' 2>/dev/null || true)"
  [[ -z "$said" ]] || m1_die "$target may write to $said"
  said="$(inside "$target" "/usr/bin/$(program "$target")" --help)"
  [[ "$said" == *"$(program "$target")"* ]] || m1_die "$target: --help says $said"
  if inside "$target" /usr/bin/m1 health --target=127.0.0.1:1 >/dev/null 2>&1; then m1_die "$target is healthy without a server"; fi
}

# Without a driver a worker says what CUDA says of that; NCCL finds all that it links, and is where the worker looks.
check_cuda_target() {
  local target="$1" model=/usr/share/m1/models/tiny flags=(--shard=0/1) said
  if [[ "$target" == attention-* ]]; then flags=(--expert_workers=inproc); fi
  if said="$(inside "$target" "/usr/bin/$(program "$target")" --device=cuda --model="$model" --address=127.0.0.1 --port=0 \
    "${flags[@]}" 2>&1)"; then m1_die "$target has found a GPU"; fi
  [[ "$said" == *"--device is cuda: GPU: cudaErrorInsufficientDriver"* ]] || m1_die "$target without a driver says $said"
  said="$(inside "$target" /bin/sh -c 'LD_PRELOAD=libnccl.so.2 ldd /bin/true' 2>&1)"
  [[ "$said" == *"libnccl.so.2 => /"* && "$said" != *"not found"* ]] || m1_die "$target does not load NCCL: $said"
}

check_images() {
  local target
  for target in "${TARGETS[@]}" "${CUDA_TARGETS[@]}"; do check_target "$target"; done
  for target in "${CUDA_TARGETS[@]}"; do check_cuda_target "$target"; done
}

# cluster TARGET...: programs of the same names that run inside the images: to a test they look like a build's.
cluster() {
  local bin="$M1_IMAGES_ROOT/bin" target
  rm -rf "$bin"
  mkdir -p "$bin"
  for target in "$@"; do
    printf '#!/bin/sh\nexec %q %q m1-%s /usr/bin/%s "$@"\n' "$M1_ROOT/scripts/lib/run_in_image.sh" "$M1_IMAGES_ROOT" \
      "$target" "$(program "$target")" >"$bin/$(program "$target")"
    chmod +x "$bin/$(program "$target")"
  done
  M1_BIN="$bin" .venv/bin/python -m pytest tests/deploy/test_compose_processes.py -q -p no:cacheprovider
}

print_sizes() {
  local target id
  for target in "${TARGETS[@]}" "${CUDA_TARGETS[@]}"; do
    id="$(m1_buildah mount "m1-$target")"
    printf '%-22s %4d MB in all, %3d MB beyond the base\n' "$target" "$(du -sxm "$id" | cut -f1)" \
      "$(($(du -sxm "$id" | cut -f1) - base_megabytes))"
    m1_buildah umount "m1-$target" >/dev/null
  done
}

sizes() {
  local container base_megabytes
  container="$(m1_buildah from --pull-never "$([[ "$M1_IMAGES_PULL" == 1 ]] && sed -n 's/^ARG DEBIAN=//p' "$DOCKERFILE" || echo "$BASE")")"
  base_megabytes="$(du -sxm "$(m1_buildah mount "$container")" | cut -f1)"
  m1_buildah rm "$container" >/dev/null
  print_sizes
}

m1_stage "install what is missing" install
m1_stage "hadolint" .venv/bin/hadolint "$DOCKERFILE"
if [[ "$M1_IMAGES_PULL" != 1 ]]; then m1_stage "base from Debian's mirror" base_from_mirror; fi
m1_stage "build" build
m1_stage "checks inside the images" check_images
m1_stage "compose's cluster inside the images" cluster "${TARGETS[@]}"
# On CPUs: their programs have those kernels, too.
if ((${#CUDA_TARGETS[@]})); then m1_stage "the same, workers built with CUDA" cluster router cli "${CUDA_TARGETS[@]}"; fi
m1_stage "sizes" sizes
m1_print_stages
echo "images.sh: passed"
