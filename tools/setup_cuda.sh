#!/usr/bin/env bash
# Makes sure that there is an nvcc to build the CUDA backend with: the system's, or NVIDIA's wheels from PyPI, 105 MB, unpacked under
# ~/.cache/bumblebee/cuda-toolchain (XDG_CACHE_HOME is honoured), where CMake looks for it. Needs no GPU, no driver and no root. Prints the
# compiler's path. Usage: tools/setup_cuda.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/setup.sh
source tools/setup.sh

# CUDA 13.0: drivers from 580 on run what it builds.
wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/bumblebee/cuda-toolchain
home=$folder/nvidia/cu13

system=$(command -v nvcc || true)
[[ -n $system || ! -x /usr/local/cuda/bin/nvcc ]] || system=/usr/local/cuda/bin/nvcc
if [[ -n $system ]] && [[ $("$system" --version | grep -oE 'release [0-9]+' | grep -oE '[0-9]+') -ge 12 ]]; then
  printf '%s\n' "$system"
  exit 0
fi
if [[ ! -x $home/bin/nvcc || ! -e $home/lib64 ]]; then
  say "fetching nvcc from PyPI (105 MB) into $folder"
  rm -rf "$folder" "$folder.part"
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --target "$folder.part" "${wheels[@]}" >&2 ||
    die "could not fetch nvcc; the CUDA backend is then not built"
  ln -s lib "$folder.part/nvidia/cu13/lib64" # where nvcc looks for its runtime
  mv "$folder.part" "$folder"
fi
printf '%s\n' "$home/bin/nvcc"
