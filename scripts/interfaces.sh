#!/usr/bin/env bash
# Build the message packages in test/interfaces into .venv/interfaces, once, for the tests.
#
# They are part of TogetheROS and not on PyPI. Run scripts/bootstrap.sh test interfaces first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/without_ros.sh
. scripts/without_ros.sh

venv=$PWD/.venv
install=$venv/interfaces
log=$venv/interfaces.log

hash=$(find test/interfaces scripts/interfaces.sh scripts/wheels.cmake requirements/interfaces.txt \
  -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
[[ $(cat "$install/.built" 2>/dev/null) != "$hash" ]] || exit 0

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}
version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
headers='import os, sysconfig; os.stat(sysconfig.get_config_var("INCLUDEPY") + "/Python.h")'
"$venv/bin/python" -c "$headers" 2>/dev/null ||
  fail "the test messages need Python's headers: sudo apt-get install python$version-dev"
command -v "${CXX:-c++}" >/dev/null ||
  fail 'the test messages need a C++ compiler: sudo apt-get install g++'

echo 'Building the test messages, once: about a minute'
rm -rf "$install"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PATH=$venv/bin:$PATH AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
# shellcheck disable=SC2016  # $ORIGIN is for the loader: the libraries lie beside each other
colcon --log-base "$scratch/log" build --merge-install --base-paths test/interfaces \
  --build-base "$scratch/build" --install-base "$install" --event-handlers console_direct+ \
  --cmake-args -G Ninja --no-warn-unused-cli "-DPython3_EXECUTABLE=$venv/bin/python" \
  -DBUILD_TESTING=OFF -DCMAKE_C_FLAGS=-O0 -DCMAKE_CXX_FLAGS=-O0 \
  "-DCMAKE_PROJECT_INCLUDE=$PWD/scripts/wheels.cmake" \
  '-DCMAKE_INSTALL_RPATH=$ORIGIN' >"$log" 2>&1 ||
  fail "the test messages cannot be built: the end of $log says why"
echo "$hash" >"$install/.built"
