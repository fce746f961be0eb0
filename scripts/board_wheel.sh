#!/usr/bin/env bash
# Compile llama-cpp-python for the boards on a PC; the wheel's path goes to standard output:
#     dist/llama_cpp_python-VERSION-py3-none-manylinux_2_35_aarch64.whl
#
# It is for any CPython on an aarch64 machine with glibc 2.35 (Ubuntu 22.04) or newer whose
# processor has dot products and half precision, as the X5's Cortex-A55 and the S100's Cortex-A78AE
# have. Compiled once: it is kept in ~/.cache until a version, an option or the compiler changes.
# PYTHON names a Python with venv. Root is needed the first time, to install the cross compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/without_ros.sh
. scripts/without_ros.sh
exec 5>&1 1>&2 # standard output is for the wheel's path
# shellcheck source=scripts/progress.sh
. scripts/progress.sh
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hobot_llamacpp_py/board_wheel
newest=(GLIBC_2.35 GLIBCXX_3.4.30 CXXABI_1.3.13 GCC_12.0.0) # what Ubuntu 22.04 has
tag=py3-none-manylinux_2_35_aarch64

if ! command -v aarch64-linux-gnu-g++ >/dev/null; then
  [[ $(id -u) == 0 ]] ||
    fail 'this machine lacks a cross compiler: sudo apt-get install g++-aarch64-linux-gnu'
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends g++-aarch64-linux-gnu
fi

# --- 1. What is wanted, and is it there?

llama=$(grep '^llama-cpp-python==' requirements/board.txt)
included=(scripts/llama_without_common.cmake scripts/board_wheel.cmake)
defined=(
  CMAKE_SYSTEM_NAME=Linux CMAKE_SYSTEM_PROCESSOR=aarch64
  CMAKE_C_COMPILER=aarch64-linux-gnu-gcc CMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
  GGML_NATIVE=OFF GGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16 MTMD_VIDEO=OFF
  # A wheel holds no links: of a library with a version in its name it would have three copies.
  CMAKE_PLATFORM_NO_VERSIONED_SONAME=ON
)
left_out='/include;/lib;/bin;/llama_cpp/server' # of the wheel; llama_cpp/lib stays
key=$({
  echo "$llama" "${defined[@]}" "$left_out" "$tag"
  cat "${included[@]}" requirements/build.txt
  aarch64-linux-gnu-g++ --version
} | sha256sum | cut -c 1-12)
kept=$cache/$key

work=$cache/build-$key log=$work/log # it stays when the build is interrupted

pip() { "$work/venv/bin/python" -m pip "$@"; }

make_venv() { "${PYTHON:-python3}" -m venv --clear "$work/venv"; }

download_source() {
  rm -rf "$work/download" "$work/unpacking"
  mkdir -p "$work/unpacking"
  grep -A 1 "^$llama " requirements/hashed/pc.txt >"$work/source.txt" &&
    pip download --no-deps --no-build-isolation --no-binary llama-cpp-python -d "$work/download" -r "$work/source.txt" &&
    tar -xf "$work"/download/*.tar.gz -C "$work/unpacking" --strip-components=1 &&
    mv "$work/unpacking" "$work/source"
}

compile() { # in a build folder that stays, so that ninja goes on where an interrupted build stopped
  # In the environment, since pip has options for it from 23.1 on only.
  SKBUILD_BUILD_DIR=$work/objects SKBUILD_WHEEL_TAGS=$tag SKBUILD_WHEEL_EXCLUDE=$left_out \
    SKBUILD_CMAKE_DEFINE=$(IFS=';' && echo "${defined[*]}") PATH=$work/venv/bin:$PATH \
    pip wheel -v --no-deps --no-build-isolation -w "$work/wheel" "$work/source"
}

build() {
  local other
  for other in "$cache"/build*; do [[ $other == "$work" ]] || rm -rf "$other"; done
  mkdir -p "$work"
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
  defined+=("CMAKE_PROJECT_INCLUDE=$PWD/${included[0]}" "CMAKE_PROJECT_llama_cpp_INCLUDE=$PWD/${included[1]}")
  if ! pip --version >/dev/null 2>&1; then
    make_venv >>"$log" 2>&1 ||
      fail "${PYTHON:-python3} cannot make virtual environments: sudo apt-get install python3-venv"
  fi
  step 'Build tools' pip install -r requirements/hashed/build.txt
  [[ -d $work/source ]] || step 'llama.cpp source' download_source
  echo "$llama is compiled for the boards, once: about five minutes of one core."
  step 'llama.cpp' compile
  check "$work/wheel"/*.whl "$work"
  mkdir -p "$kept"
  mv "$work/wheel"/*.whl "$kept"
  rm -rf "$work"
}

check() { # check WHEEL FOLDER: does it need nothing that Ubuntu 22.04 lacks?
  local wanted name highest limit
  "${PYTHON:-python3}" -m zipfile -e "$1" "$2/unpacked"
  wanted=$(aarch64-linux-gnu-readelf -VW "$2"/unpacked/llama_cpp/lib/*.so* | grep -o 'Name: [A-Z]*_[0-9.]*')
  for limit in "${newest[@]}"; do
    name=${limit%_*}
    highest=$(grep -o "${name}_.*" <<<"$wanted" | sort -V | tail -1) || true
    if [[ $(printf '%s\n' "$highest" "$limit" | sort -V | tail -1) != "$limit" ]]; then
      fail "the libraries need $highest, and Ubuntu 22.04 has $limit: this machine's cross compiler is too new; build in a container of Debian 12 or Ubuntu 22.04"
    fi
  done
}

mkdir -p "$cache" dist
exec 9>"$cache/lock"
flock 9
[[ -e $kept ]] || build
rm -f dist/llama_cpp_python-*_aarch64.whl
cp "$kept"/*.whl dist
echo "$PWD"/dist/llama_cpp_python-*_aarch64.whl >&5
