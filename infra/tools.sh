#!/bin/sh
# Installs promtool into .venv/tools for the tests of the alert rules. It is extracted from Debian's package `prometheus`,
# which is not installed, so that no server starts and no root is needed. Without promtool, those tests are skipped.
set -eu
cd "$(dirname "$0")/.."
tools=.venv/tools
[ -x "$tools/promtool" ] && exit 0
skip() { echo "promtool is missing, so the alert rules are not tested: $*" >&2; exit 0; }
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || skip "apt-get and dpkg-deb are missing"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get -qq download prometheus 2>"$work/log") || skip "apt-get download prometheus: $(tail -n 1 "$work/log")"
mkdir -p "$tools"
dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -xO ./usr/bin/promtool >"$tools/promtool.part"
chmod +x "$tools/promtool.part"
mv "$tools/promtool.part" "$tools/promtool"
