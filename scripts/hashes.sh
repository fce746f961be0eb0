#!/usr/bin/env bash
# Write requirements/hashed/: the pins of requirements/ with the hashes of their files, as
# scripts/bootstrap.sh installs them. To be run after a pin has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch"
"$scratch/bin/python" -m pip install -q --disable-pip-version-check -r requirements/audit.txt
mkdir -p requirements/hashed
for file in requirements/*.txt; do
  name=${file##*/}
  # A board's wheel of llama.cpp comes from a PC of yours; the tools of audit.txt are not installed.
  case $name in board*|audit.txt) continue ;; esac
  # All files of a version: of each Python, and the source.
  "$scratch/bin/uv" pip compile --quiet --no-deps --no-strip-extras --universal --python-version 3.10 \
    --generate-hashes --no-header --no-annotate --output-file "$scratch/$name" "$file"
  { echo "# Written by scripts/hashes.sh from $file."; cat "$scratch/$name"; } >"requirements/hashed/$name"
done
