#!/usr/bin/env bash
# Run the whole package but ROS, for which PyPI has no aarch64 wheels, on the emulated board, with
# the board's pinned packages and llama.cpp cross-compiled for its Cortex-A55: whole_package.sh
# PYTHON names a Python with pip. Compiling takes about six minutes on a core, once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
export BPU_SIM_WORK=${BPU_SIM_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/hobot_llamacpp_py/board}
python=${PYTHON:-python3}
"$here/run.sh" x5
site=$BPU_SIM_WORK/packages
wanted=$(cat "$root/requirements/board.txt")

for tool in aarch64-linux-gnu-g++ cmake ninja; do
  command -v "$tool" >/dev/null && continue
  packages=(g++-aarch64-linux-gnu cmake ninja-build)
  if [[ $(id -u) != 0 ]]; then
    echo "error: this machine lacks $tool: sudo apt-get install ${packages[*]}" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
done

if [[ $(cat "$site.done" 2>/dev/null) != "$wanted" ]]; then
  build=$BPU_SIM_WORK/llama
  rm -rf "$site" "$build"
  mkdir -p "$site" "$build/wheels" "$build/source"
  # PyYAML comes with ROS on the board.
  { grep -v '^llama-cpp-python' "$root/requirements/board.txt"; grep '^pyyaml' "$root/requirements/pc.txt"; } \
    >"$build/requirements.txt"
  "$python" -m pip download -q --no-deps -d "$build/wheels" --only-binary :all: \
    --implementation cp --python-version 3.11 --platform manylinux2014_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 --platform any \
    -r "$build/requirements.txt"
  for wheel in "$build"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$site"; done

  "$python" -m pip download -q --no-deps --no-binary llama-cpp-python -d "$build" \
    "$(grep '^llama-cpp-python' "$root/requirements/board.txt")"
  tar -xf "$build"/llama_cpp_python-*.tar.gz -C "$build/source" --strip-components=1
  cmake -G Ninja -S "$build/source/vendor/llama.cpp" -B "$build/objects" \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod \
    -DGGML_OPENMP=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN" >"$build/log"
  cmake --build "$build/objects" --target llama ggml >>"$build/log"
  cp -r "$build/source/llama_cpp" "$site"
  mkdir -p "$site/llama_cpp/lib"
  cp -a "$build"/objects/bin/lib*.so* "$site/llama_cpp/lib"
  rm -rf "$build"
  echo "$wanted" >"$site.done"
fi

BPU_SIM_PYTHONPATH=$site:$root:$root/test exec "$here/emu.sh" x5 "$here/whole_package.py"
