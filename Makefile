# Targets, each with a line of help: make help

BIN     ?= bin
DESTDIR ?=
GO      ?= $(shell scripts/need go)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

INVENTORY ?= ldif

# Static, position-fixed and stripped: start-up time counts twice on every mount.
GOBUILD = CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w -X main.release=$(VERSION)'

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the three commands into bin/
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/ ./cmd/...

.PHONY: install
install: ## install what make build built, below DESTDIR
	install -d $(DESTDIR)/usr/bin $(DESTDIR)/usr/sbin $(DESTDIR)/usr/libexec/levelfs $(DESTDIR)/etc/auto.master.d
	install -d $(DESTDIR)/etc/levelfs/inventory.d $(DESTDIR)/usr/share/levelfs/schema
	install -d -m 0755 $(DESTDIR)/var/lib/levelfs/images
	install -m 0755 $(BIN)/levelfs $(DESTDIR)/usr/bin/
	install -m 0755 $(BIN)/mount.levelfs $(DESTDIR)/usr/sbin/
	ln -sf mount.levelfs $(DESTDIR)/usr/sbin/umount.levelfs
	install -m 0755 $(BIN)/auto.levelfs $(DESTDIR)/usr/libexec/levelfs/
	ln -sf auto.levelfs $(DESTDIR)/usr/libexec/levelfs/auto.levelfs.user
	install -d $(DESTDIR)/usr/share/man/man1 $(DESTDIR)/usr/share/man/man5 $(DESTDIR)/usr/share/man/man8
	install -m 0644 docs/man/*.1 $(DESTDIR)/usr/share/man/man1/
	install -m 0644 docs/man/*.5 $(DESTDIR)/usr/share/man/man5/
	install -m 0644 docs/man/*.8 $(DESTDIR)/usr/share/man/man8/
	install -d $(DESTDIR)/usr/share/bash-completion/completions $(DESTDIR)/usr/share/zsh/vendor-completions
	$(BIN)/levelfs completion bash >$(DESTDIR)/usr/share/bash-completion/completions/levelfs
	$(BIN)/levelfs completion zsh >$(DESTDIR)/usr/share/zsh/vendor-completions/_levelfs
	install -m 0644 packaging/schema/levelfs.schema packaging/schema/*.ldif docs/servers.md $(DESTDIR)/usr/share/levelfs/schema/
	install -d $(DESTDIR)/usr/lib/systemd/system $(DESTDIR)/etc/cron.d
	install -m 0644 packaging/systemd/levelfs-* $(DESTDIR)/usr/lib/systemd/system/
	install -m 0644 packaging/cron/levelfs $(DESTDIR)/etc/cron.d/
	test -e $(DESTDIR)/etc/levelfs/levelfs.toml || install -m 0644 packaging/levelfs.toml $(DESTDIR)/etc/levelfs/
	test -e $(DESTDIR)/etc/auto.master.d/levelfs.autofs || install -m 0644 packaging/levelfs.autofs $(DESTDIR)/etc/auto.master.d/

.PHONY: demo
demo: ## two machines, two levels, one private change (as root; INVENTORY=ldap for a real slapd)
	@scripts/demo $(INVENTORY)

.PHONY: test
test: ## all tests, with real automount, slapd and overlayfs where run as root
	@scripts/need $(TEST_NEEDS)
	$(GO) test -race -count=1 -timeout 20m ./...

# What the tests run against. Without root, those that need it are skipped; with
# LEVELFS_TEST_REQUIRE=all a skip is a failure.
TEST_NEEDS = gcc=gcc /usr/include/stdio.h=libc6-dev pgrep=procps automount=autofs slapd=slapd ns-slapd=389-ds-base strace=strace git=git losetup=mount findmnt=util-linux \
	mkfs.erofs=erofs-utils mksquashfs=squashfs-tools mkfs.ext4=e2fsprogs setfattr=attr setfacl=acl

.PHONY: test-guests
test-guests: ## segments and pmem devices with the real drivers, in emulated s390x and x86-64 guests
	@scripts/need $(GUEST_NEEDS)
	$(GO) test -tags guests -count=1 -v -p 1 -timeout 20m ./test/guests/s390x ./test/guests/x86

.PHONY: bench-memory
bench-memory: ## host memory for guests that share a level, and for those that do not (JSON in bench-memory.json, plot in docs/memory.svg)
	@scripts/need $(GUEST_NEEDS)
	LEVELFS_BENCH_JSON=$(CURDIR)/bench-memory.json LEVELFS_BENCH_SVG=$(CURDIR)/docs/memory.svg \
		$(GO) test -tags guests -count=1 -v -timeout 30m -run TestMemory ./test/guests/memory

# Kernels for the guests are fetched into a cache: see test/guests/guest.
GUEST_NEEDS = qemu-system-s390x=qemu-system-misc qemu-system-x86_64=qemu-system-x86 mkfs.ext4=e2fsprogs mkfs.erofs=erofs-utils \
	/usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring

.PHONY: lint
lint: ## formatting, vet for amd64 and s390x, shell scripts, man pages, units, go.mod
	@scripts/need shellcheck=shellcheck mandoc=mandoc
	@test -z "$$($(dir $(GO))gofmt -l .)" || { $(dir $(GO))gofmt -l .; echo "gofmt: files above"; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(GO) vet -tags guests ./test/guests/...
	GOARCH=s390x $(GO) vet ./...
	GOARCH=s390x $(GO) build ./...
	shellcheck scripts/* .ci/run
	mandoc -T lint -W warning docs/man/*.[158]
	scripts/lint-units

.PHONY: bench
bench: ## first access through automount, compared (as root; JSON in bench.json)
	@scripts/need automount=autofs slapd=slapd
	LEVELFS_TEST_REQUIRE=all LEVELFS_BENCH_JSON=$(CURDIR)/bench.json \
		$(GO) test ./test/bench -run '^$$' -bench FirstAccess -benchtime 1x -count 1

.PHONY: bench-inventory
bench-inventory: ## lookups in inventories of 1,000 to 100,000 hosts, and a boot storm (as root; JSON in bench-inventory.json)
	@scripts/need slapd=slapd
	LEVELFS_TEST_REQUIRE=all LEVELFS_BENCH_JSON=$(CURDIR)/bench-inventory.json \
		$(GO) test ./test/bench -run '^$$' -bench Inventory -benchtime 1x -count 1

.PHONY: bench-switch
bench-switch: ## a change of level under 50 readers, compared with systemd-sysext (as root; JSON in bench-switch.json)
	@scripts/need systemd-sysext=systemd mkfs.erofs=erofs-utils
	LEVELFS_TEST_REQUIRE=all LEVELFS_BENCH_JSON=$(CURDIR)/bench-switch.json \
		$(GO) test ./test/bench -run '^$$' -bench Switch -benchtime 1x -count 1 -timeout 60m

.PHONY: bench-check
bench-check: ## levelfs check of a healthy machine with 200 views and 1,000 components: time and memory (as root)
	@scripts/need slapd=slapd mkfs.erofs=erofs-utils
	LEVELFS_TEST_REQUIRE=all $(GO) test ./test/bench -run '^$$' -bench '^BenchmarkCheck$$' -benchtime 1x -count 1

.PHONY: bench-run
bench-run: ## levelfs run of a command that does nothing, compared with unshare(1) (as root)
	@scripts/need automount=autofs mkfs.erofs=erofs-utils
	LEVELFS_TEST_REQUIRE=all $(GO) test ./test/bench -run '^$$' -bench '^BenchmarkRun$$' -benchtime 1x -count 1

.PHONY: clean
clean: ## remove what make made
	rm -rf bin bench.json bench-inventory.json bench-switch.json bench-memory.json
