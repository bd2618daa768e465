# Sourced by ./demo and ./test: `setup_for program` or `setup_for tests` makes sure that what the build needs is on this machine, and
# installs from Debian's packages what is missing. Quick when nothing is. Run directly, it takes the same words: program, tests, fuzz, oracles.
# shellcheck shell=bash

# What each purpose needs: COMMAND:PACKAGE where any provider of the command will do, PACKAGE alone for headers and libraries.
setup_program=(g++:g++ cmake:cmake ninja:ninja-build ccache:ccache git:git python3:python3
  nlohmann-json3-dev libcli11-dev libfmt-dev libspdlog-dev libyaml-cpp-dev libcurl4-openssl-dev libssl-dev libedit-dev libgtest-dev libbenchmark-dev)
setup_tests=(clang-format-15:clang-format-15 qemu-aarch64-static:qemu-user-static aarch64-linux-gnu-g++:g++-aarch64-linux-gnu
  googletest npm:npm)
setup_fuzz=(clang++-14:clang-14 libclang-rt-14-dev)
setup_rust=1.85 # the oldest compiler that the text library's crates accept

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

# Whether `$1 --version` says at least $2.
version_at_least() {
  local found
  found=$("$1" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1)
  [[ -n $found && $(printf '%s\n%s\n' "$2" "$found" | sort -V | head -n 1) == "$2" ]]
}

is_installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# Installs packages, as root or through sudo; says what to do where neither is possible.
install_packages() {
  local as=() log
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null || die "missing packages: $*. Install them as root: apt-get install $*"
    as=(sudo)
    [[ -t 0 ]] || as+=(-n)
    "${as[@]}" true || die "missing packages: $*. Install them as root: apt-get install $*"
  fi
  say "installing: $*"
  log=$(mktemp)
  if ! { "${as[@]}" apt-get update -qq && "${as[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "could not install: $*"
  fi
  rm -f "$log"
}

# Looks for a Rust compiler that is new enough: on PATH, else Debian's.
setup_cargo() {
  version_at_least cargo "$setup_rust" && version_at_least rustc "$setup_rust" && return
  if [[ -x /usr/bin/cargo && -x /usr/bin/rustc ]] && version_at_least /usr/bin/cargo "$setup_rust"; then
    PATH=/usr/bin:$PATH
    return
  fi
  missing+=(cargo-web rustc-web)
}

# setup_for PURPOSE: program; tests, fuzz or oracles include it.
setup_for() {
  local need=("${setup_program[@]}") missing=() item
  [[ $1 == tests ]] && need+=("${setup_tests[@]}")
  [[ $1 == fuzz ]] && need+=("${setup_fuzz[@]}")
  local has_apt=1
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || has_apt=0
  for item in "${need[@]}"; do
    if [[ $item == *:* ]]; then
      command -v "${item%%:*}" >/dev/null || missing+=("${item#*:}")
    elif [[ $has_apt == 1 ]]; then
      is_installed "$item" || missing+=("$item")
    fi
  done
  python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
  [[ $1 != oracles ]] || python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  setup_cargo
  if [[ ${#missing[@]} -gt 0 ]]; then
    [[ $has_apt == 1 ]] || die "this is not a Debian system; install what these packages hold, then run again: ${missing[*]}"
    install_packages "${missing[@]}"
    hash -r
  fi
  if ! version_at_least cargo "$setup_rust"; then
    PATH=/usr/bin:$PATH
    version_at_least cargo "$setup_rust" || die "cargo $setup_rust or newer is needed, and Debian's cargo-web did not give it"
  fi
  version_at_least cmake 3.25 || die "cmake 3.25 or newer is needed, found: $(cmake --version | head -n 1)"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  setup_for "${1:-program}"
fi
