#!/usr/bin/env bash
# Build the emulated board once, from Debian and PyPI packages only, and run Python in it:
#     run.sh SCRIPT.py [ARGUMENT]...      run.sh -c 'CODE'      run.sh (only builds)
#   BPU_SIM_WORK     where it is built (default ~/.cache/hobot_llamacpp_py/board, about 115 MB);
#                    delete it to build again
#   BPU_SIM_BINDING  the binding (default hobot-dnn-rdkx5==3.0.6)
#   BPUSIM_LOG=1     a line on stderr for every call that the binding makes
# Root is needed the first time, to install qemu and a cross compiler.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export BPU_SIM_WORK=${BPU_SIM_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/hobot_llamacpp_py/board}
work=$BPU_SIM_WORK
mkdir -p "$work"
exec 9>"$work/lock"
flock 9

packages=(qemu-user-static gcc-aarch64-linux-gnu binutils-aarch64-linux-gnu libc6-dev-arm64-cross)
if ! command -v qemu-aarch64-static >/dev/null || ! command -v aarch64-linux-gnu-gcc >/dev/null; then
  if [[ $(id -u) != 0 ]]; then
    echo "error: this machine lacks an emulator: sudo apt-get install ${packages[*]}" >&2
    exit 1
  fi
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >&2
fi

if [[ ! -e $work/root.done ]]; then
  rm -rf "$work/root" "$work/apt"
  bash "$here/build_sysroot.sh" "$work" >"$work/root.log" 2>&1 || {
    tail -20 "$work/root.log" >&2
    exit 1
  }
  touch "$work/root.done"
fi

wanted=${BPU_SIM_BINDING:-hobot-dnn-rdkx5==3.0.6}
if [[ $(cat "$work/site.done" 2>/dev/null) != "$wanted" ]]; then
  rm -rf "$work/site" "$work/wheels"
  mkdir -p "$work/site" "$work/wheels"
  python=${PYTHON:-python3}
  "$python" -m pip download -q --no-deps -d "$work/wheels" "$wanted" >&2
  for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site"; done
  echo "$wanted" >"$work/site.done"
fi

binding=("$work"/site/*/pyeasy_dnn.so)
library=$work/board/libdnn.so
for source in "$here/libdnn_sim.c" "$here/build_sim.sh" "${binding[0]}"; do
  if [[ ! -e $library || $source -nt $library ]]; then
    bash "$here/build_sim.sh" "$work/board" "${binding[0]}" >&2
    touch "$library"
  fi
done
flock -u 9
exec 9>&-

if (($#)); then exec "$here/emu.sh" "$@"; fi
echo "ready in $work"
