#!/usr/bin/env bash
# Build an emulated board once, from Debian and PyPI packages only, and run Python in it:
#     run.sh BOARD SCRIPT.py [ARGUMENT]...      run.sh BOARD -c 'CODE'      run.sh BOARD (only builds)
# BOARD is x5 or s100.
#   BPU_SIM_WORK     where it is built (default ~/.cache/hobot_llamacpp_py/board, about 130 MB);
#                    delete it to build again
#   BPUSIM_LOG=1     a line on stderr for every call that the binding makes
# Root is needed the first time, to install qemu and a cross compiler.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
board=${1:-}
case $board in
  x5) binding=hobot-dnn-rdkx5==3.0.6 module=pyeasy_dnn.so python_version= ;;
  s100) binding=hbm-runtime==0.1.0.post1 module=HB_HBMRuntime.so python_version=3.10 ;;
  *)
    echo "usage: run.sh x5|s100 [SCRIPT.py | -c CODE]" >&2
    exit 2
    ;;
esac
shift
export BPU_SIM_WORK=${BPU_SIM_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/hobot_llamacpp_py/board}
work=$BPU_SIM_WORK
mkdir -p "$work/$board"
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

if [[ $(cat "$work/root.done" 2>/dev/null) != "$(sha256sum <"$here/build_sysroot.sh")" ]]; then
  rm -rf "$work/root" "$work/apt"
  bash "$here/build_sysroot.sh" "$work" >"$work/root.log" 2>&1 || {
    tail -20 "$work/root.log" >&2
    exit 1
  }
  sha256sum <"$here/build_sysroot.sh" >"$work/root.done"
fi

site=$work/$board/site
if [[ $(cat "$site.done" 2>/dev/null) != "$binding" ]]; then
  rm -rf "$site" "$work/$board/wheels"
  mkdir -p "$site" "$work/$board/wheels"
  python=${PYTHON:-python3}
  options=()
  if [[ -n $python_version ]]; then
    options=(--only-binary :all: --python-version "$python_version" --platform manylinux_2_34_aarch64)
  fi
  "$python" -m pip download -q --no-deps "${options[@]}" -d "$work/$board/wheels" "$binding" >&2
  for wheel in "$work/$board"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$site"; done
  # Debian's Python is 3.11. A binding for 3.10 compares the version's text and no more: what it
  # calls of CPython is the same there.
  if [[ -n $python_version ]]; then
    "$python" - "$site"/*/"$module" "$python_version" <<'PY'
import sys
path, version = sys.argv[1:]
with open(path, 'rb') as file:
    data = file.read()
text = version.encode() + b'\0'
assert data.count(text) == 1, 'another build of the binding: look again'
with open(path, 'wb') as file:
    file.write(data.replace(text, b'3.11\0'))
PY
  fi
  echo "$binding" >"$site.done"
fi

module=("$site"/*/"$module")
library=$work/$board/libraries/libdnn.so
for source in "$here/$board.c" "$here/sim.h" "$here/build_sim.sh" "${module[0]}"; do
  if [[ ! -e $library || $source -nt $library ]]; then
    bash "$here/build_sim.sh" "$board" "$work/$board/libraries" "${module[0]}" >&2
    touch "$library"
  fi
done
flock -u 9
exec 9>&-

if (($#)); then exec "$here/emu.sh" "$board" "$@"; fi
echo "$board is ready in $work"
