#!/usr/bin/env bash
# Make .venv and install the pinned packages into it: scripts/bootstrap.sh [test]
#
# Run it again at any time: what is done is not done again, and an interrupted run goes on where it
# stopped, the compilation of llama.cpp included. PYTHON=... names the Python to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/without_ros.sh
. scripts/without_ros.sh
# shellcheck source=scripts/progress.sh
. scripts/progress.sh

log=.venv/install.log
build=$PWD/.venv/llama-build

# --- 1. Nothing to do?

sets=(pc "$@")
stamp() { echo ".venv/.installed-$1"; } # holds the hash of the requirements that were installed
hash_of() { sha256sum <"requirements/hashed/$1.txt"; } # which scripts/hashes.sh makes of $1.txt

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

# --- 3. The environment

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  echo "Making .venv with Python $version"
  output=$("$python" -m venv --clear .venv 2>&1) || fail "cannot make .venv: ${output##*$'\n'}"
fi
PATH=$PWD/.venv/bin:$PATH # the pinned cmake and ninja come first; the machine needs none
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
pip() { .venv/bin/python -m pip "$@"; }

# --- 4. llama.cpp, compiled once per kind of machine: the wheel is kept for the next .venv

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
  grep -A 1 '^llama-cpp-python==' requirements/hashed/pc.txt >"$build/source.txt" &&
    pip download --no-deps --no-build-isolation --no-binary llama-cpp-python -d "$build" -r "$build/source.txt" &&
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
  step 'Build tools' pip install -r requirements/hashed/build.txt
  [[ -d $build/source ]] || step 'llama.cpp source' download_source
  echo 'llama.cpp is compiled, once for this machine: 4 to 10 minutes on two cores.'
  step 'llama.cpp' compile
  step 'llama-cpp-python' install_wheel
  rm -rf "$build"
fi

# --- 5. Everything else, by its hashes: llama.cpp is the one that is there already

files=()
for set in "${sets[@]}"; do files+=(-r "requirements/hashed/$set.txt"); done
step 'ROS 2 and Python packages' pip install "${files[@]}"
step 'Check' .venv/bin/python -c 'import cv2, llama_cpp, onnxruntime, rclpy, std_msgs.msg'
for set in "${sets[@]}"; do hash_of "$set" >"$(stamp "$set")"; done
