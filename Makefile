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
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

.PHONY: build
build: ## build the three commands into bin/
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/ ./cmd/auto.levelfs ./cmd/mount.levelfs
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w -X main.release=$(VERSION)' -o $(BIN)/ ./cmd/levelfs

.PHONY: install
install: ## install what make build built, below DESTDIR
	install -d $(DESTDIR)/usr/bin $(DESTDIR)/usr/sbin $(DESTDIR)/usr/libexec/levelfs $(DESTDIR)/etc/auto.master.d
	install -d $(DESTDIR)/etc/levelfs/inventory.d $(DESTDIR)/usr/share/levelfs/schema
	install -d -m 0755 $(DESTDIR)/var/lib/levelfs/images
	install -m 0755 $(BIN)/levelfs $(DESTDIR)/usr/bin/
	install -m 0755 $(BIN)/mount.levelfs $(DESTDIR)/usr/sbin/
	install -m 0755 $(BIN)/auto.levelfs $(DESTDIR)/usr/libexec/levelfs/
	install -m 0644 packaging/schema/levelfs.schema packaging/schema/levelfs.ldif $(DESTDIR)/usr/share/levelfs/schema/
	test -e $(DESTDIR)/etc/levelfs/levelfs.toml || install -m 0644 packaging/levelfs.toml $(DESTDIR)/etc/levelfs/
	test -e $(DESTDIR)/etc/auto.master.d/levelfs.autofs || install -m 0644 packaging/levelfs.autofs $(DESTDIR)/etc/auto.master.d/

.PHONY: demo
demo: ## two machines, two levels, one private change (as root; INVENTORY=ldap for a real slapd)
	@scripts/demo $(INVENTORY)
