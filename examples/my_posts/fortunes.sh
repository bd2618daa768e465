#!/usr/bin/env bash
# The whole workflow on real data: the short texts of Debian's package `fortunes` (apt-get install fortunes) and SmolLM2-135M at 4 bits.
# Usage: examples/my_posts/fortunes.sh DIR [FLAGS OF train...]; DIR gets data/ and adapter/. Some minutes on two cores.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=${1:?usage: fortunes.sh DIR [FLAGS OF train...]}
shift
texts=/usr/share/games/fortunes
[[ -f $texts/fortunes ]] || { echo "error: $texts/fortunes is missing; apt-get install fortunes" >&2; exit 1; }
program=$root/build/release/bumblebee
model=$("$root/demo" --where)

mkdir -p "$out"
"$program" prepare "$texts/fortunes" "$texts/wisdom" "$texts/work" -o "$out/data" --separator % --prompt "Tell me a fortune." \
  --min-length 20 --max-length 400 --test-ratio 0.05 --split-ratio 0.85 -m "$model" --force
"$program" train -m "$model" --data "$out/data" --adapter-path "$out/adapter" --mask-prompt --num-layers -1 --rank 8 --scale 20 \
  --dropout 0.05 --optimizer adamw --lr-schedule cosine_decay:2e-4,150 --warmup 10 --iters 150 --batch-size 8 --max-seq-length 192 \
  --steps-per-eval 25 --val-batches -1 --save-every 50 --early-stopping 3 --train --test --sample-prompt "Tell me a fortune." "$@"

for adapter in none "$out/adapter/best"; do
  echo "== adapter: $adapter"
  with=()
  [[ $adapter == none ]] || with=(--adapter "$adapter")
  "$program" generate -m "$model" "${with[@]}" -p "Tell me a fortune." -n 80 --temp 0.8 --seed 1
done
