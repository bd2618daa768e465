#!/usr/bin/env bash
# Formats the C++ and Rust sources in place, or with --check reports what is not formatted and exits with 1.
# Usage: tools/format.sh [--check] [FILE...]; without files, everything that git tracks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=(-i)
if [[ ${1:-} == --check ]]; then
  mode=(--dry-run --Werror)
  shift
fi
formatter=$(command -v clang-format-15 || true)
if [[ -z $formatter ]]; then
  echo "format: clang-format-15 is missing; install Debian's package of that name" >&2
  exit 2
fi
if [[ $# -gt 0 ]]; then
  files=("$@")
else
  mapfile -t files < <(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')
fi
if [[ ${#files[@]} -gt 0 ]]; then
  printf '%s\0' "${files[@]}" | xargs -0 -n 50 "$formatter" --style=file "${mode[@]}"
fi
