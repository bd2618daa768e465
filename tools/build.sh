#!/usr/bin/env bash
# Configures a preset where that is needed and builds targets of it. Usage: tools/build.sh PRESET [TARGET...]; without targets, everything.
# Quiet unless it fails or a person is watching; everything it says is on stderr. The log is build/PRESET.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${1:?usage: tools/build.sh PRESET [TARGET...]}
shift
folder=build/$preset
log=build/$preset.log
mkdir -p build
command=(cmake --build "$folder" --parallel "$(nproc)")
[[ $# -eq 0 ]] || command+=(--target "$@")

configure() {
  if [[ ! -f $folder/build.ninja || CMakePresets.json -nt $folder/CMakeCache.txt ]]; then
    cmake --preset "$preset"
  fi
}
fail() {
  tail -n 60 "$log" >&2
  echo "error: building $preset failed; the whole log is $log" >&2
  exit 1
}

first=no
[[ -f $folder/build.ninja ]] || first=yes
configure >"$log" 2>&1 </dev/null || fail
[[ $first == no ]] || echo "building ($preset; minutes the first time)" >&2
if [[ -t 2 ]]; then
  "${command[@]}" >&2 </dev/null || { echo "error: building $preset failed" >&2; exit 1; }
else
  "${command[@]}" >>"$log" 2>&1 </dev/null || fail
fi
