# drivefs: `make run` mounts a demo drive, `make test` runs every check that must pass.
# Both install what is missing first, and both may be repeated. `make install-system` puts the
# tools where mount(8), umount(8), fstab and people look for them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait for disks, servers and each other: processors have work if there are more processes. A mount is some more.
WORKERS := $(shell n=$$((2 * $$(nproc))); echo $$((n < 8 ? n : 8)))
MOUNT_WORKERS := $(shell n=$$(($$(nproc) + 1)); echo $$((n < 4 ? n : 4)))
# To collect all tests takes each process longer than to collect those that mount.
MOUNTING := tests/mount tests/crash/test_batches.py tests/crash/test_kill_mount.py \
	tests/property/test_mount_model.py tests/unit/tools/test_cli.py
SERVERS := $(VENV)/servers
AZURITE := 3.35.0
AWS_SDK := 3.1169.0
STAMP := $(VENV)/.installed
SBIN := /sbin
SYSTEM_BIN := /usr/local/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
DEMO := demo
HUB_DEMO := demo-hub
DRIVE := $(DEMO)/drive
MOUNT := $(DEMO)/mnt
KEY := $(DEMO)/key
S3_DRIVE := $(DEMO)/s3-drive
S3_ADDRESS := 127.0.0.1:9000
MOUNTED = grep -q " $(CURDIR)/$(MOUNT) " /proc/mounts
.PHONY: servers clients site install install-system packages postgresql run run-s3 run-hub stop stop-hub test lint soak conformance conformance-xfstests conformance-s3 bench clean

install: packages $(STAMP)
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory install-system; fi

# Each line: how to see that it is there, and the package that brings it.
packages:
	@missing=""; \
	need() { sh -c "$$1" >/dev/null 2>&1 || missing="$$missing $$2"; }; \
	need "command -v fusermount3" fuse3; \
	need "command -v pkg-config" pkg-config; \
	need "pkg-config --exists fuse3" libfuse3-dev; \
	need "command -v gcc" gcc; \
	need "echo '#include <stdio.h>' | gcc -E -" libc6-dev; \
	need "command -v $(PYTHON)" python3; \
	need "$(PYTHON) -c 'import ensurepip'" python3-venv; \
	need "test -e \"\$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path(\"include\"))')/Python.h\"" python3-dev; \
	need "command -v rsync" rsync; \
	need "command -v git" git; \
	need "command -v setfattr" attr; \
	need "command -v setfacl" acl; \
	need "command -v strace" strace; \
	need "ls /usr/lib/*/faketime/libfaketime.so.1" libfaketime; \
	[ -n "$$missing" ] || exit 0; \
	if [ -z "$(SUDO)" ] || command -v $(SUDO) >/dev/null; then \
		echo "installing:$$missing"; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends $$missing && exit 0; \
	fi; \
	echo "packages are missing, and cannot be installed from here; as root: apt-get install$$missing" >&2; \
	exit 1

$(STAMP): pyproject.toml setup.cfg | packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "drivefs needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

# mount(8) looks only in /sbin; the scripts linked there start this checkout's own interpreter.
# `drivefs` and `drivefs-hub` are for every user, and /sbin is in the path of root only.
install-system: $(STAMP)
	@for name in mkfs.drivefs mount.drivefs umount.drivefs fsck.drivefs; do \
		$(SUDO) ln -sfn "$(CURDIR)/$(BIN)/$$name" "$(SBIN)/$$name" || exit 1; \
	done; \
	$(SUDO) ln -sfn "$(CURDIR)/$(BIN)/mount.drivefs" "$(SBIN)/mount.fuse.drivefs" && \
	$(SUDO) ln -sfn "$(CURDIR)/$(BIN)/umount.drivefs" "$(SBIN)/umount.fuse.drivefs" && \
	$(SUDO) mkdir -p "$(SYSTEM_BIN)" && \
	$(SUDO) ln -sfn "$(CURDIR)/$(BIN)/drivefs" "$(SYSTEM_BIN)/drivefs" && \
	$(SUDO) ln -sfn "$(CURDIR)/$(BIN)/drivefs-hub" "$(SYSTEM_BIN)/drivefs-hub"

# The demo keeps cache and state beside its drive, so that nothing is written outside this folder.
run: export DRIVEFS_CACHE_DIR = $(CURDIR)/$(DEMO)/cache
run: export DRIVEFS_STATE_DIR = $(CURDIR)/$(DEMO)/state

# A mount whose process was killed cannot be looked into, though the kernel may still say that it is one;
# mount.drivefs takes it away.
run: install
	@mkdir -p $(MOUNT) 2>/dev/null || $(MOUNTED)
	@test -e $(KEY) || (umask 077 && head -c 32 /dev/urandom > $(KEY))
	@test -e $(DRIVE)/drive.toml || $(BIN)/mkfs.drivefs --key-file $(KEY) $(DRIVE)
	@{ mountpoint -q $(MOUNT) && ls $(MOUNT) >/dev/null 2>&1; } || $(BIN)/mount.drivefs $(DRIVE) $(MOUNT) -o key_file=$(KEY)
	@echo "The drive is mounted at $(MOUNT). Copy something in, then:"
	@echo "  $(BIN)/drivefs status $(MOUNT)    what is stored, and what is not yet"
	@echo "  make stop                          store everything and unmount"

# A door on a drive of its own, with a new access key each time; it serves until Ctrl-C.
run-s3: export DRIVEFS_CACHE_DIR = $(CURDIR)/$(DEMO)/cache
run-s3: export DRIVEFS_STATE_DIR = $(CURDIR)/$(DEMO)/state

run-s3: install
	@mkdir -p $(DEMO)
	@test -e $(KEY) || (umask 077 && head -c 32 /dev/urandom > $(KEY))
	@test -e $(S3_DRIVE)/drive.toml || $(BIN)/mkfs.drivefs --key-file $(KEY) $(S3_DRIVE)
	@$(BIN)/drivefs s3 key add $(S3_DRIVE) --key-file $(KEY) --note "make run-s3"
	@echo "With these in the environment (as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY):"
	@echo "  aws --endpoint-url http://$(S3_ADDRESS) --region us-east-1 s3 mb s3://bucket"
	@$(BIN)/drivefs s3 serve $(S3_DRIVE) --key-file $(KEY) --listen $(S3_ADDRESS)

# A hub with its database, and its drive mounted twice. HUB_ADDRESS: another than 127.0.0.1:8080, the first time.
run-hub: install postgresql
	@docs/hub/demo.sh start

stop-hub:
	@docs/hub/demo.sh stop

stop:
	@if $(MOUNTED); then $(BIN)/umount.drivefs $(MOUNT); else echo "$(MOUNT) is not mounted"; fi

# $(1): packages of the npm registry, installed where npm is there to bring them. Without them their tests are skipped.
from_npm = test -e "$(SERVERS)/$(subst /,-,$(firstword $(1)))" || ! command -v npm >/dev/null || { \
		echo "installing: $(1) into $(SERVERS)"; \
		npm install --prefix "$(SERVERS)" --no-audit --no-fund --ignore-scripts --loglevel=error \
			$(1) && touch "$(SERVERS)/$(subst /,-,$(firstword $(1)))"; \
	} || echo "$(1) cannot be installed: its tests are skipped"

# Servers for tests that are no Python packages.
servers: postgresql | install
	@$(call from_npm,azurite@$(AZURITE))

# Its packages make no cluster: tests and the demo have clusters of their own.
postgresql:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] || { \
		echo "installing: postgresql"; mkdir -p /etc/postgresql-common; \
		test -e /etc/postgresql-common/createcluster.conf || echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; \
	} || echo "PostgreSQL cannot be installed: tests of the hub are skipped, and no demo of it can run"

# Clients of the S3 door that only `make soak` has. Those of Debian are installed for root; for others their tests are
# skipped where they are not there.
clients: | install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,clients]'
	@$(call from_npm,@aws-sdk/client-s3@$(AWS_SDK) @aws-sdk/lib-storage@$(AWS_SDK))
	@{ command -v restic && command -v s3fs; } >/dev/null || [ "$$(id -u)" != 0 ] || { \
		echo "installing: restic s3fs"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends restic s3fs; \
	} || echo "restic and s3fs cannot be installed: their tests are skipped"

# What a hub without a single point of failure has besides (docs/hub.md), for the storm of `make soak`. Their services of this
# machine are not started.
site: postgresql | install
	@{ command -v haproxy && command -v patroni && command -v etcd; } >/dev/null || [ "$$(id -u)" != 0 ] || { \
		echo "installing: haproxy patroni etcd-server"; \
		apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends haproxy patroni etcd-server; \
	} || echo "haproxy, patroni or etcd-server cannot be installed: the storm of a hub is skipped"

# In three parts, each also if one before failed. Tests with the marker `mount` have a process of their own for each mount,
# so few of them run at once. Those with the marker `alone` look at times and at the processor's time, or do something to all
# mounts: they run one after the other. A file's tests share what they set up, so they stay in one process; of mounted ones
# a process that has no more takes half of those that another has left, and sets up what they share once more.
# The other files begin in the order of tests.conftest, the longest first: pytest-xdist would begin with those of most tests.
test: install servers
	@failed=""; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=40 -m "not soak and not mount" \
		|| failed="all but the mounted ones"; \
	$(BIN)/python -m pytest -n $(MOUNT_WORKERS) --dist worksteal --durations=25 -m "mount and not alone and not soak" $(MOUNTING) \
		|| failed="$${failed:+$$failed; }the mounted ones"; \
	$(BIN)/python -m pytest --durations=10 -m "alone and not soak" tests/mount \
		|| failed="$${failed:+$$failed; }those that run alone"; \
	if [ -n "$$failed" ]; then echo "make test: FAILED ($$failed)"; exit 1; fi; \
	echo "make test: passed"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The hours of tests/soak/test_storm.py and test_hub_storm.py among them; the table of the failpoint matrix is written anew.
soak: export MATRIX_TABLE = $(CURDIR)/docs/fault_matrix.md

soak: install clients site
	$(BIN)/python -m pytest -m soak --timeout 7200

# PJDFSTEST: a checkout of github.com/pjd/pjdfstest. TESTS: some of its tests only, as "chmod rename/00.t".
conformance: install
	@test -n "$(PJDFSTEST)" || { echo "say where a checkout of pjd/pjdfstest is: make conformance PJDFSTEST=DIR"; exit 2; }
	$(BIN)/python -m tests.conformance.pjdfstest "$(PJDFSTEST)" $(TESTS)

# XFSTESTS: a built checkout of xfs/xfstests-dev. TESTS: some of its generic tests only, as "001 generic/736", or options
# of tests.conformance.xfstests. What it mounts is seen by no other process.
conformance-xfstests: install
	@test -n "$(XFSTESTS)" || { echo "say where a built checkout of xfs/xfstests-dev is: make conformance-xfstests XFSTESTS=DIR"; exit 2; }
	$(BIN)/python -m tests.conformance.xfstests "$(XFSTESTS)" $(TESTS)

# S3TESTS: a checkout of ceph/s3-tests, whose requirements are installed in .venv. TESTS: some of its tests only, as
# "s3tests/functional/test_s3.py::test_bucket_list_empty", or --write to add what passes to the list.
conformance-s3: install
	@test -n "$(S3TESTS)" || { echo "say where a checkout of ceph/s3-tests is: make conformance-s3 S3TESTS=DIR"; exit 2; }
	$(BIN)/python -m tests.conformance.s3_tests "$(S3TESTS)" $(TESTS)

bench: install
	$(BIN)/python -m bench
	$(BIN)/python -m bench.breakdown
	$(BIN)/python -m bench.repair

clean: stop
	@[ ! -e $(HUB_DEMO) ] || docs/hub/demo.sh clean
	rm -rf $(VENV) $(DEMO) build *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
