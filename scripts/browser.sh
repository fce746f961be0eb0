#!/usr/bin/env bash
# Install Chromium and its driver for the tests of the page, from Debian's packages (120 MB to
# download, 440 MB on disk). Root is needed where they are missing.
set -euo pipefail

packages=(chromium chromium-driver)
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi
if [[ $(id -u) != 0 ]]; then
  echo "error: this machine lacks a browser: sudo apt-get install ${packages[*]}" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
