#!/bin/sh
# demo.sh start|stop|clean: a hub on this machine, and its drive mounted twice, as two devices. `make run-hub` calls it from the
# checkout's folder. Everything is in ./demo-hub; as root the database is in the home of the user postgres, as it runs as that.
set -eu
top=$(pwd -P)
here=$top/demo-hub
bin=$top/.venv/bin
# The logins name the address of the first time.
address=$(cat "$here/address" 2>/dev/null) || address=${HUB_ADDRESS:-127.0.0.1:8080}
url=http://$address
programs=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
if [ "$(id -u)" = 0 ]; then
	data=/var/lib/postgresql/drivefs-demo-$(printf %s "$top" | cksum | cut -d ' ' -f 1)
	as="setpriv --reuid=postgres --regid=postgres --clear-groups"
else
	data=$here/postgres
	as=
fi
database="host='$data' user=postgres dbname=hub"
elsewhere="the first time this takes another one: make run-hub HUB_ADDRESS=127.0.0.1:PORT"
socket_path=93 # of the 107 bytes that a socket's path may have, without its name

fail() { echo "$*" >&2; exit 1; }

postgres_runs() { [ -n "$programs" ] && [ -d "$data" ] && (cd / && $as "$programs/pg_ctl" -D "$data" status >/dev/null 2>&1); }

# Nobody but its own user, and root, gets through the folder to the socket; there is no other way in.
start_postgres() {
	[ -n "$programs" ] || fail "PostgreSQL is not installed; as root: apt-get install postgresql"
	[ ${#data} -le $socket_path ] || fail "$data: too long for the path of a socket; the demo needs a folder with a shorter one"
	[ -e "$data/PG_VERSION" ] || (cd / && $as "$programs/initdb" -D "$data" -U postgres -A trust -E UTF8 --no-instructions >/dev/null)
	postgres_runs || (cd / && $as "$programs/pg_ctl" -D "$data" -l "$data/log" -w -s start \
		-o "-c listen_addresses= -c unix_socket_directories='$data'")
	psql() { (cd / && $as "$programs/psql" -h "$data" -U postgres -Atq "$@"); }
	[ "$(psql -d postgres -c "SELECT 1 FROM pg_database WHERE datname = 'hub'")" = 1 ] || psql -d postgres -c "CREATE DATABASE hub"
}

is_ready() { "$bin/python" -c "import httpx, sys; sys.exit(httpx.get('$url/ready', trust_env=False).status_code != 200)" 2>/dev/null; }

# After a restart of the machine its number may be another process's.
hub_runs() {
	[ -s "$here/pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$here/pid")/cmdline" | grep -qF "drivefs-hub serve $here/hub "
}

start_hub() {
	[ -e "$here/hub/hub.toml" ] || "$bin/drivefs-hub" init "$here/hub" --url "$url" --listen "$address" --database "$database" \
		--profile 2+1 --open-sign-up
	"$bin/drivefs-hub" migrate "$here/hub" >/dev/null
	if ! hub_runs; then
		! is_ready || fail "$address: another hub answers there; $elsewhere"
		setsid "$bin/drivefs-hub" serve "$here/hub" --listen "$address" >>"$here/log" 2>&1 </dev/null &
		echo $! >"$here/pid"
	fi
	looks=0
	until is_ready; do
		sleep 0.2
		hub_runs || { tail -3 "$here/log" >&2; fail "the hub has ended; its log is $here/log; if its address is taken, $elsewhere"; }
		looks=$((looks + 1))
		[ $looks -lt 150 ] || fail "the hub runs, and is not ready ($url/ready says why); its log is $here/log"
	done
	echo "$address" >"$here/address"
}

# $1: the device. A machine has one login at a hub, so each has folders of its own.
device() { export DRIVEFS_STATE_DIR="$here/state-$1" DRIVEFS_CACHE_DIR="$here/cache-$1"; }

# A mount whose process was killed cannot be looked into, and is one.
is_mounted() { grep -qF " $(printf %s "$here/$1" | sed 's/ /\\040/g') fuse.drivefs " /proc/mounts; }

# What was interrupted is gone on with: where there is a recovery key there may be an account.
log_in() {
	device=$1
	set -- "$url" --email demo@example.org --passphrase-file "$here/passphrase" --name "$device"
	[ "$device" = a ] || { "$bin/drivefs" login "$@"; return; }
	[ ! -e "$here/recovery" ] || ! "$bin/drivefs" login "$@" 2>/dev/null || return 0
	rm -f "$here/recovery"
	"$bin/drivefs" account create "$@" --recovery-file "$here/recovery"
}

start_devices() {
	[ -s "$here/passphrase" ] || (umask 077; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$here/passphrase")
	for name in a b; do
		device "$name"
		"$bin/drivefs" drives list >/dev/null 2>&1 || log_in "$name"
		"$bin/drivefs" drives list | grep -q '^demo ' || "$bin/drivefs" drives create demo
		is_mounted "$name" || mkdir -p "$here/$name"
		mountpoint -q "$here/$name" || "$bin/mount.drivefs" "$url/demo" "$here/$name"
	done
}

start() {
	[ "${HUB_ADDRESS:-$address}" = "$address" ] || fail "the demo's hub is at $address since it was made; docs/hub/demo.sh clean removes it"
	mkdir -p "$here"
	start_postgres
	start_hub
	start_devices
	echo "The drive is mounted at demo-hub/a and demo-hub/b, as two devices of one account. Write in one, look in the other."
	echo "  make stop-hub    stores everything, unmounts both, and ends the hub and its database"
}

# Without the hub nothing can be stored, and the journals keep it for the next time.
unmount_all() {
	for name in a b; do
		device "$name"
		is_mounted "$name" || continue
		"$bin/umount.drivefs" "$here/$name" && continue
		! is_ready || fail "demo-hub/$name stays mounted, and the hub runs"
		echo "unmounting it without the hub: what it has not published stays in demo-hub/state-$name" >&2
		"$bin/umount.drivefs" -f "$here/$name"
	done
}

stop() {
	unmount_all
	if hub_runs; then
		kill "$(cat "$here/pid")"
		while hub_runs; do sleep 0.1; done
	fi
	rm -f "$here/pid"
	! postgres_runs || (cd / && $as "$programs/pg_ctl" -D "$data" -m fast -w -s stop)
}

case ${1:-} in
start) start ;;
stop) stop ;;
clean) stop; rm -rf "$here"; [ "$data" = "$here/postgres" ] || rm -rf "$data" ;;
*) fail "demo.sh start|stop|clean" ;;
esac
