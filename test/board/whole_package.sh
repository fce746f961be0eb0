#!/usr/bin/env bash
# Install what a board gets, its wheel of llama.cpp included, on the emulated board with the pip of
# Ubuntu 22.04, and run the whole package but ROS there, for which PyPI has no aarch64 wheels.
# whole_package.sh; PYTHON names a Python with pip.
#   packages         what requirements/board.txt names, all below $BPU_SIM_WORK
#   onnx_packages    what board_onnx.txt adds
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
export BPU_SIM_WORK=${BPU_SIM_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/hobot_llamacpp_py/board}
python=${PYTHON:-python3}
work=$BPU_SIM_WORK
"$here/run.sh" x5
wheel=$("$root/scripts/board_wheel.sh")
# The processor: ARMv8.2 with dot products and half precision, and nothing newer, like a Cortex-A55.
export QEMU_CPU=cortex-a76

pip() { # pip ARGUMENT...: the board's, which knows the two folders
  BPU_SIM_PYTHONPATH=$work/pip.whl:$work/packages:$work/onnx_packages BPU_SIM_SITE='' \
    "$here/emu.sh" x5 -m pip "$@"
}

wanted=$(cat "$here/whole_package.sh" "$root"/requirements/board*.txt; sha256sum <"$wheel")
if [[ $(cat "$work/packages.done" 2>/dev/null) != "$wanted" ]]; then
  rm -rf "$work/packages" "$work/onnx_packages" "$work/wheels"
  mkdir -p "$work/wheels"
  # PyYAML comes with ROS on the board.
  { cat "$root/requirements/board.txt"; grep '^pyyaml' "$root/requirements/pc.txt"; } >"$work/packages.txt"
  download() {
    "$python" -m pip download -q --no-deps -d "$work/wheels" --only-binary :all: --find-links "${wheel%/*}" \
      --implementation cp --python-version 3.11 --platform manylinux2014_aarch64 \
      --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
      --platform manylinux_2_35_aarch64 --platform any "$@"
  }
  download -r "$work/packages.txt" -r "$root/requirements/board_onnx.txt"
  download -d "$work/wheels/pip" pip==22.0.2 # Ubuntu 22.04's
  mv "$work"/wheels/pip/*.whl "$work/pip.whl"
  install() { pip install -q --no-index --find-links "$work/wheels" --target "$@"; }
  install "$work/packages" -r "$work/packages.txt"
  install "$work/onnx_packages" --no-deps -r "$root/requirements/board_onnx.txt"
  pip check
  rm -r "$work/wheels"
  echo "$wanted" >"$work/packages.done"
fi

BPU_SIM_PYTHONPATH=$work/packages:$work/onnx_packages:$root:$root/test \
  exec "$here/emu.sh" x5 "$here/whole_package.py"
