#!/usr/bin/env bash
# Ask PyPI's list of known vulnerabilities about every pin of requirements/: 0 if there are none.
# Fails as well if one cannot be asked about.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch"
"$scratch/bin/python" -m pip install -q --disable-pip-version-check -r requirements/audit.txt
status=0
for file in requirements/*.txt; do
  echo "== $file"
  "$scratch/bin/pip-audit" --strict --progress-spinner off --no-deps --disable-pip -r "$file" ||
    status=1
done
exit $status
