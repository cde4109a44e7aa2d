#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The units are what systemd understands: no unknown key, no value that is ignored. Fails on any word of systemd-analyze verify, and when
# a catalog entry lacks a part. Run by make check in the build tree.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
entries=$(grep -c '^-- [0-9a-f]\{32\}$' systemd/expertd.catalog)
subjects=$(grep -c '^Subject: .' systemd/expertd.catalog)
if [ "$entries" -lt 2 ] || [ "$entries" -ne "$subjects" ]; then
	echo "catalog: $entries entries, $subjects subjects"
	exit 1
fi
if ! command -v systemd-analyze >/dev/null; then
	echo "systemd-analyze is not installed: units not checked"
	exit 77
fi
for unit in expertd.service expertd-router.service; do
	# the program is not installed while it is built
	sed -E 's,^(ExecStart|ExecReload)=[^ ]*/expertd,\1=/bin/true,' "systemd/$unit" >"$tmp/$unit"
done
# what is known by kernel drivers or of other packages' units is not ours
if ! SYSTEMD_UNIT_PATH="$tmp:" systemd-analyze verify --man=no "$tmp/expertd.service" "$tmp/expertd-router.service" >"$tmp/out" 2>&1 || grep "$tmp/" "$tmp/out"; then
	cat "$tmp/out"
	exit 1
fi
# the check itself must be able to fail
sed 's/^Type=notify/Typ=notify/' "$tmp/expertd.service" >"$tmp/wrong.service"
if ! systemd-analyze verify --man=no "$tmp/wrong.service" 2>&1 | grep -q 'Typ'; then
	echo "systemd-analyze verify does not see a wrong key"
	exit 1
fi
