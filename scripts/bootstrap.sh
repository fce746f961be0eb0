#!/usr/bin/env bash
# Make .venv and install the pinned packages into it: scripts/bootstrap.sh [test]
#
# Run it again at any time: what is done is not done again, and an interrupted run goes on where it
# stopped, the compilation of llama.cpp included. PYTHON=... names the Python to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/without_ros.sh
. scripts/without_ros.sh

log=.venv/install.log
build=$PWD/.venv/llama-build

exec 4>&2 # errors go to the user, also from inside a step, whose output goes to the log
fail() {
  printf 'error: %s\n' "$1" >&4
  exit 1
}

# --- 1. Nothing to do?

sets=(pc "$@")
stamp() { echo ".venv/.installed-$1"; } # holds the hash of the requirements that were installed
hash_of() { sha256sum <"requirements/$1.txt"; }

todo=false
for set in "${sets[@]}"; do
  [[ -x .venv/bin/python && "$(cat "$(stamp "$set")" 2>/dev/null)" == "$(hash_of "$set")" ]] || todo=true
done
$todo || exit 0

# --- 2. A Python that the ROS wheels exist for, with venv

usable='
import platform, sys
libc, version = platform.libc_ver()
sys.exit(not (
    sys.implementation.name == "cpython" and (3, 10) <= sys.version_info[:2] <= (3, 13)
    and platform.machine() == "x86_64"
    and libc == "glibc" and tuple(map(int, version.split("."))) >= (2, 28)
))'
python=
for candidate in ${PYTHON:-python3.11 python3.10 python3.12 python3.13 python3}; do
  # Running it is the test: pyenv puts names on the PATH that only say "command not found".
  if "$candidate" -c "$usable" 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  found=$("${PYTHON:-python3}" -c 'import platform as p; print(p.python_implementation(), p.python_version())' 2>/dev/null) ||
    found="no ${PYTHON:-python3}"
  advice='install python3.11 or name one with PYTHON=/path/to/python3.11'
  if [[ $(uname -m) == aarch64 ]]; then advice='on a board use the ROS it has, as docs/board.md says'; fi
  fail "found $found on $(uname -m), but the ROS 2 packages on PyPI need CPython 3.10 to 3.13 on x86_64 Linux with glibc 2.28 or newer: $advice"
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "Python $version cannot make virtual environments: sudo apt-get install python$version-venv"

# --- 3. Steps: the output goes to the log, one line of progress to the user

reporter=
trap '[[ -z $reporter ]] || kill "$reporter" 2>/dev/null || true' EXIT
trap '[[ ! -t 1 ]] || echo >&4; fail "interrupted: run it again to go on from here"' INT TERM

progress() { # progress NAME OFFSET: follow the log from OFFSET until killed
  local start=$SECONDS last=$SECONDS seconds now line
  exec 3<> <(:) # never readable: `read -t` sleeps without a child that would outlive us
  while true; do
    read -rt 1 -u 3 || true
    # ninja counts [n/m]; elsewhere show what pip is at
    now=$(tail -c "+$2" "$log" | tail -c 300000 |
      grep -oE '^ *(\[[0-9]+/[0-9]+\]|Collecting [^ ]+|Installing .*packages)' | tail -n 1) || true
    seconds=$((SECONDS - start))
    printf -v line '%s  %d:%02d  %s' "$1" $((seconds / 60)) $((seconds % 60)) "${now#"${now%%[! ]*}"}"
    if [[ -t 1 ]]; then
      printf '\r\033[K%.*s' "${COLUMNS:-79}" "$line"
    elif ((SECONDS - last >= 30)); then
      last=$SECONDS
      printf '%s\n' "$line"
    fi
  done
}

step() { # step NAME COMMAND...
  local name=$1 from ok=true
  shift
  printf '== %s\n' "$name" >>"$log"
  from=$(($(stat -c %s "$log") + 1))
  # The command stays in the foreground: Ctrl-C must reach it and its children.
  progress "$name" "$from" &
  reporter=$!
  "$@" >>"$log" 2>&1 || ok=false
  kill "$reporter" 2>/dev/null || true
  wait "$reporter" 2>/dev/null || true
  reporter=
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
  $ok || explain "$name" "$from"
  printf '%s: done\n' "$name"
}

explain() { # say in one line why step $1 failed, from the log's part $2
  local text
  text=$(tail -c "+$2" "$log")
  has() { grep -qE "$1" <<<"$text"; }
  if has 'No space left on device'; then
    fail "the disk is full: free 2 GB, then run this again (log: $log)"
  elif has 'Killed signal|fatal error: Killed'; then
    fail "the compiler ran out of memory: run this again with CMAKE_BUILD_PARALLEL_LEVEL=1 (log: $log)"
  elif has '(NewConnection|ProxyError|SSLError|NameResolution|ConnectTimeout|ReadTimeout|IncompleteRead)|Connection (refused|broken|aborted)|Temporary failure in name resolution|Network is unreachable|timed out|\(from versions: none\)'; then
    fail "PyPI cannot be reached: check the network, https_proxy, or PIP_INDEX_URL for a mirror, then run this again (log: $log)"
  fi
  fail "$1 failed: the end of $log says why"
}

# --- 4. The environment

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  echo "Making .venv with Python $version"
  output=$("$python" -m venv --clear .venv 2>&1) || fail "cannot make .venv: ${output##*$'\n'}"
fi
PATH=$PWD/.venv/bin:$PATH # the pinned cmake and ninja come first; the machine needs none
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
pip() { .venv/bin/python -m pip "$@"; }

# --- 5. llama.cpp, compiled once per kind of machine: the wheel is kept for the next .venv

llama=$(grep '^llama-cpp-python==' requirements/pc.txt)
machine=$( (grep -m 1 '^flags' /proc/cpuinfo || true; cat /etc/os-release) | sha256sum | cut -c 1-12)
wheels=${XDG_CACHE_HOME:-${HOME:-$PWD/.venv}/.cache}/hobot_llamacpp_py/$machine

compiles() { # compiles LANGUAGE HEADER COMPILER...: does one of them work, its library included?
  local language=$1 header=$2 compiler
  shift 2
  for compiler in "$@"; do
    if printf '#include <%s>\nint main() { return 0; }\n' "$header" |
      "$compiler" -x "$language" -o /dev/null - 2>/dev/null; then return 0; fi
  done
  return 1
}

download_source() {
  rm -rf "$build"
  mkdir -p "$build/unpacking"
  pip download --no-deps --no-build-isolation --no-binary llama-cpp-python -d "$build" "$llama" &&
    tar -xf "$build"/llama_cpp_python-*.tar.gz -C "$build/unpacking" --strip-components=1 &&
    mv "$build/unpacking" "$build/source"
}

compile() { # in a build folder that stays, so that ninja goes on where an interrupted build stopped
  SKBUILD_BUILD_DIR=$build/objects \
    CMAKE_ARGS="-DCMAKE_PROJECT_INCLUDE=$PWD/scripts/llama_without_common.cmake ${CMAKE_ARGS:-}" \
    pip wheel -v --no-deps --no-build-isolation -w "$wheels" "$build/source"
}

install_wheel() {
  pip install --no-deps --only-binary :all: --find-links "$wheels" --retries 1 "$llama"
}

mkdir -p "$wheels"
if ! install_wheel >>"$log" 2>&1; then
  if ! compiles c stdio.h "${CC:-cc}" gcc clang || ! compiles c++ vector "${CXX:-c++}" g++ clang++; then
    fail 'llama.cpp is compiled here, and there is no working C++ compiler: sudo apt-get install g++'
  fi
  step 'Build tools' pip install -r requirements/build.txt
  [[ -d $build/source ]] || step 'llama.cpp source' download_source
  echo 'llama.cpp is compiled, once for this machine: 4 to 10 minutes on two cores.'
  step 'llama.cpp' compile
  step 'llama-cpp-python' install_wheel
  rm -rf "$build"
fi

# --- 6. Everything else

files=()
for set in "${sets[@]}"; do files+=(-r "requirements/$set.txt"); done
step 'ROS 2 and Python packages' pip install "${files[@]}"
step 'Check' .venv/bin/python -c 'import cv2, llama_cpp, onnxruntime, rclpy, std_msgs.msg'
for set in "${sets[@]}"; do hash_of "$set" >"$(stamp "$set")"; done
