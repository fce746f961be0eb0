#!/usr/bin/env bash
# The Python of an emulated board, with the real binding and simulated libraries: emu.sh BOARD ...,
# used like any other interpreter, with a script, -c or -m. run.sh builds what it needs.
#   BPU_SIM_WORK        where it was built (see run.sh)
#   BPU_SIM_LIBRARIES   the board's libraries; empty: a board without them
#   BPU_SIM_SITE        the folder with the binding; empty: none installed
#   BPU_SIM_PYTHONPATH  more folders, before the binding's (PYTHONPATH is the host's)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
board=$1
shift
work=${BPU_SIM_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/hobot_llamacpp_py/board}
root=$work/root
libraries=${BPU_SIM_LIBRARIES-$work/$board/libraries}
for folder in '' /blas /lapack; do libraries+=:/usr/lib/aarch64-linux-gnu$folder; done
ulimit -c 0 # qemu would dump the core of a process that is meant to crash
# Bytecode is kept: compiling takes half of a start.
exec qemu-aarch64-static -U PYTHONDONTWRITEBYTECODE -L "$root" -E "LD_LIBRARY_PATH=${libraries#:}" \
  -E "PYTHONPATH=${BPU_SIM_PYTHONPATH:+$BPU_SIM_PYTHONPATH:}${BPU_SIM_SITE-$work/$board/site}" \
  -E "PYTHONPYCACHEPREFIX=$work/bytecode" -E "BPU_SIM_PYTHON=$here/emu.sh $board" "$root/usr/bin/python3.11" "$@"
