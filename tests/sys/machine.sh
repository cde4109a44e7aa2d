#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A machine for tests: a real systemd and journald as PID 1 of namespaces of their own, over a copy-on-write view of /.
#
#   machine.sh up DIR [SRC:DST ...]    boots in about a second; SRC is bind-mounted at DST; files of DIR/extra are copied over /
#   machine.sh in DIR COMMAND...       runs a command inside
#   machine.sh down DIR                orderly power-off, SIGKILL after 20 s
#
# Needs root, overlayfs and cgroups (v1 hierarchies with a named systemd one, or v2). Nothing is written to the real root, no network
# but a loopback of its own. Exit status 77 from `up`: this machine cannot do it, the reason on stderr.
set -eu

alive() { case $(ps -o stat= -p "$1") in '' | Z*) return 1 ;; esac; } # kill -0 would see a body that is not yet reaped

# --- inside the new namespaces, before systemd -----------------------------------------------------------------------------------
# The hierarchies listed in DIR/v1 (cgroup v1) are mounted as the test's own; with none, v2 alone.
mount_cgroups() {
	local c o at=$R/sys/fs/cgroup
	if [ ! -s "$DIR/v1" ]; then
		mount -t cgroup2 cgroup2 "$at"
		return
	fi
	mount -t tmpfs -o mode=755 tmpfs "$at"
	mkdir "$at/unified"
	mount -t cgroup2 cgroup2 "$at/unified"
	while read -r c; do
		mkdir "$at/${c#name=}"
		o=$c
		[ "$c" != name=systemd ] || o=none,$c
		mount -t cgroup -o "$o" cgroup "$at/${c#name=}"
	done <"$DIR/v1"
}

mount_devices() {
	local n
	mount -t tmpfs -o mode=755,nosuid,noexec dev "$R/dev"
	mkdir "$R/dev/pts" "$R/dev/shm"
	for n in null zero full random urandom tty; do
		touch "$R/dev/$n"
		mount --bind "/dev/$n" "$R/dev/$n"
	done
	mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$R/dev/pts"
	ln -s pts/ptmx "$R/dev/ptmx"
	mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/dev/shm"
	ln -s /proc/self/fd "$R/dev/fd"
	touch "$R/dev/console"
	mount --bind "$DIR/console" "$R/dev/console"
}

mount_root() {
	mount --make-rprivate /
	mount -t tmpfs -o mode=755,size=2g machine /mnt
	mkdir /mnt/upper /mnt/work /mnt/root
	R=/mnt/root
	mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work "$R"
	mount -t proc -o nosuid,nodev,noexec proc "$R/proc"
	mount --bind "$R/proc/sys" "$R/proc/sys"
	mount -o remount,bind,ro "$R/proc/sys" # no sysctl reaches the real machine
	mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$R/sys"
	mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$R/run"
	mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/tmp"
	mount_devices
	mount_cgroups
}

# Only what the tests need starts: no network, no udev, no logins.
settle_units() {
	local u s=$R/etc/systemd
	rm -rf "$s"/system/*.wants "$R/var/log/journal"
	mkdir -p "$s/system" "$s/journald.conf.d" "$R/var/log/journal"
	printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nForwardToSyslog=no\nForwardToWall=no\nAudit=no\n' \
		>"$s/journald.conf.d/test.conf"
	for u in systemd-{resolved,networkd,timesyncd,udevd,udev-trigger,logind,firstboot,binfmt,pstore}.service \
		systemd-journald-audit.socket systemd-udevd-{control,kernel}.socket getty.target \
		proc-sys-fs-binfmt_misc.automount dev-hugepages.mount sys-kernel-{debug,tracing,config}.mount \
		sys-fs-fuse-connections.mount; do
		ln -sfn /dev/null "$s/system/$u"
	done
}

boot() {
	local b
	mount_root
	hostname machine
	: >"$R/etc/fstab"
	rm -f "$R/etc/machine-id"
	tr -d - </proc/sys/kernel/random/uuid >"$R/etc/machine-id"
	settle_units
	[ ! -d "$DIR/extra" ] || cp -a "$DIR/extra/." "$R/"
	for b in $BIND; do
		mkdir -p "$R${b#*:}"
		mount --bind "${b%%:*}" "$R${b#*:}"
	done
	ip link set lo up
	mkdir -p "$R/.old"
	cd "$R"
	pivot_root . .old
	umount -l /.old
	rmdir /.old
	mount --make-rshared /
	exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test /lib/systemd/systemd --system --unit=multi-user.target \
		<>/dev/console >&0 2>&1
}

# --- outside ----------------------------------------------------------------------------------------------------------------------
# A cgroup of the machine's own below the caller's, in every hierarchy.
make_cgroups() {
	local at type options name own
	: >"$DIR/cgroups"
	: >"$DIR/v1"
	while read -r _ at type options _; do
		if [ "$type" = cgroup2 ]; then
			own=$(sed -n 's/^0:://p' /proc/self/cgroup)
		else
			name=$(echo "$options" | sed -E 's/(^|,)(rw|relatime|nosuid|nodev|noexec|xattr)//g; s/^,//')
			own=$(awk -F: -v c="$name" '$2 == c { print $3 }' /proc/self/cgroup)
			echo "$name" >>"$DIR/v1"
		fi
		own=$at${own%/}/expertd-test-$$
		mkdir -p "$own" 2>/dev/null || return 1
		echo "$own" >>"$DIR/cgroups"
		if [ "$type" = cgroup ] && [ -e "$own/cpuset.cpus" ]; then
			cat "${own%/*}/cpuset.cpus" >"$own/cpuset.cpus"
			cat "${own%/*}/cpuset.mems" >"$own/cpuset.mems"
		fi
	done < <(grep -E '^[^ ]+ /sys/fs/cgroup[^ ]* cgroup2? ' /proc/mounts)
}

up() {
	[ "$(id -u)" = 0 ] || { echo 'needs root' >&2; exit 77; }
	[ -x /lib/systemd/systemd ] || { echo 'systemd is not installed' >&2; exit 77; }
	unshare --mount true 2>/dev/null || { echo 'namespaces are not permitted' >&2; exit 77; }
	mkdir -p "$DIR"
	: >"$DIR/console"
	make_cgroups || { echo 'no cgroup can be made' >&2; exit 77; }
	export DIR BIND="$*"
	(
		while read -r g; do echo $BASHPID >"$g/cgroup.procs"; done <"$DIR/cgroups"
		exec setsid unshare --mount --uts --ipc --pid --cgroup --net --fork --kill-child "$0" boot "$DIR" </dev/null >"$DIR/log" 2>&1
	) &
	local outer=$! inner='' state=''
	for _ in $(seq 500); do
		inner=$(ps -o pid= --ppid $outer | tr -d ' ' || true)
		[ -n "$inner" ] && [ "$(cat "/proc/$inner/comm" 2>/dev/null)" = systemd ] && break
		alive $outer || { cat "$DIR/log" "$DIR/console" >&2; exit 77; }
		sleep .02
	done
	echo $outer >"$DIR/outer.pid"
	echo "$inner" >"$DIR/pid"
	for _ in $(seq 600); do
		state=$(nsenter -t "$inner" -a systemctl is-system-running 2>/dev/null || true)
		case $state in running | degraded) return ;; esac
		alive $outer || break
		sleep .05
	done
	cat "$DIR/log" "$DIR/console" >&2
	echo "systemd did not come up: ${state:-no answer}" >&2
	exit 1
}

inside() {
	exec nsenter -t "$(cat "$DIR/pid")" -m -u -i -n -p -C -r -w env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
		LANG=C.UTF-8 SYSTEMD_PAGER=cat HOME=/root "$@"
}

down() {
	local inner outer g
	inner=$(cat "$DIR/pid")
	outer=$(cat "$DIR/outer.pid")
	kill -s RTMIN+4 "$inner" 2>/dev/null || true
	for _ in $(seq 1000); do alive "$inner" || break; sleep .02; done
	! alive "$inner" || kill -9 "$inner"
	for _ in $(seq 100); do alive "$outer" || break; sleep .02; done
	while read -r g; do find "$g" -depth -type d -exec rmdir {} \; 2>/dev/null || true; done <"$DIR/cgroups"
}

verb=$1
DIR=$2
shift 2
case $verb in
up) up "$@" ;;
boot) boot ;;
in) inside "$@" ;;
down) down ;;
*) echo "usage: machine.sh up|in|down DIR ..." >&2; exit 2 ;;
esac
