#!/usr/bin/env bash
# Run a command as it is where the message packages of TogetheROS are installed:
# with_interfaces.sh COMMAND [ARGUMENT]...
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source=scripts/without_ros.sh
. scripts/without_ros.sh
prefix=$PWD/.venv/interfaces
site=$(echo "$prefix"/lib/python*/site-packages)
PYTHONPATH=$site LD_LIBRARY_PATH=$prefix/lib exec "$@"
