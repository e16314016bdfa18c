#!/bin/sh
# demo.sh start|stop|clean: a hub on this machine, and its drive mounted twice, as two devices. `make run-hub` calls it from the
# checkout's folder. Everything is in ./demo-hub; as root the database is in the home of the user postgres, as it runs as that.
set -eu
here=$PWD/demo-hub
bin=$PWD/.venv/bin
address=${HUB_ADDRESS:-127.0.0.1:8080}
url=http://$address
programs=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
if [ "$(id -u)" = 0 ]; then
	data=/var/lib/postgresql/drivefs-demo-$(printf %s "$PWD" | cksum | cut -d ' ' -f 1)
	as="setpriv --reuid=postgres --regid=postgres --clear-groups"
else
	data=$here/postgres
	as=
fi
database="host=$data user=postgres dbname=hub"

fail() { echo "$*" >&2; exit 1; }

postgres_runs() { [ -n "$programs" ] && [ -d "$data" ] && (cd / && $as "$programs/pg_ctl" -D "$data" status >/dev/null 2>&1); }

# Nobody but its own user, and root, gets through the folder to the socket; there is no other way in.
start_postgres() {
	[ -n "$programs" ] || fail "PostgreSQL is not installed; as root: apt-get install postgresql"
	[ -e "$data/PG_VERSION" ] || (cd / && $as "$programs/initdb" -D "$data" -U postgres -A trust -E UTF8 --no-instructions >/dev/null)
	postgres_runs || (cd / && $as "$programs/pg_ctl" -D "$data" -l "$data/log" -w -s start \
		-o "-c listen_addresses= -c unix_socket_directories='$data'")
	psql() { (cd / && $as "$programs/psql" -h "$data" -U postgres -Atq "$@"); }
	[ "$(psql -d postgres -c "SELECT 1 FROM pg_database WHERE datname = 'hub'")" = 1 ] || psql -d postgres -c "CREATE DATABASE hub"
}

is_ready() { "$bin/python" -c "import httpx, sys; sys.exit(httpx.get('$url/ready', trust_env=False).status_code != 200)" 2>/dev/null; }

hub_runs() { [ -s "$here/pid" ] && kill -0 "$(cat "$here/pid")" 2>/dev/null; }

start_hub() {
	[ -e "$here/hub/hub.toml" ] || "$bin/drivefs-hub" init "$here/hub" --url "$url" --listen "$address" --database "$database" \
		--profile 2+1 --open-sign-up
	"$bin/drivefs-hub" migrate "$here/hub" >/dev/null
	if ! hub_runs; then
		setsid "$bin/drivefs-hub" serve "$here/hub" --listen "$address" >>"$here/log" 2>&1 </dev/null &
		echo $! >"$here/pid"
	fi
	until is_ready; do
		hub_runs || { tail -3 "$here/log" >&2; fail "the hub has ended; its log is $here/log"; }
		sleep 0.2
	done
}

# $1: the device. A machine has one login at a hub, so each has folders of its own.
device() { export DRIVEFS_STATE_DIR="$here/state-$1" DRIVEFS_CACHE_DIR="$here/cache-$1"; }

start_devices() {
	[ -e "$here/passphrase" ] || (umask 077; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$here/passphrase")
	secret="--email demo@example.org --passphrase-file $here/passphrase"
	device a
	if [ ! -e "$here/has-drive" ]; then
		"$bin/drivefs" drives list >/dev/null 2>&1 ||
			"$bin/drivefs" account create "$url" $secret --name a --recovery-file "$here/recovery"
		"$bin/drivefs" drives create demo
		touch "$here/has-drive"
	fi
	device b
	"$bin/drivefs" drives list >/dev/null 2>&1 || "$bin/drivefs" login "$url" $secret --name b
	for name in a b; do
		device "$name"
		mkdir -p "$here/$name" 2>/dev/null || true
		mountpoint -q "$here/$name" || "$bin/mount.drivefs" "$url/demo" "$here/$name"
	done
}

start() {
	mkdir -p "$here"
	start_postgres
	start_hub
	start_devices
	echo "The drive is mounted at demo-hub/a and demo-hub/b, as two devices of one account. Write in one, look in the other."
	echo "  make stop-hub    stores everything, unmounts both, and ends the hub and its database"
}

stop() {
	for name in a b; do
		device "$name"
		! mountpoint -q "$here/$name" || "$bin/umount.drivefs" "$here/$name"
	done
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
