# The README says what each target is for. What takes long is made by the scripts of integration/setup and kept in LIMPET_CACHE
# (/var/cache/limpet), outside this tree.

# Every stage keeps all processors busy by itself.
.NOTPARALLEL:
.DEFAULT_GOAL := build
.PHONY: build packages guest kernel image vsock busybox containerd setup run test lint unit integration booting bench fuzz install clean

export LIMPET_BUILD := $(CURDIR)/build
# A commit's id in the programs would need a git that trusts this directory, which root in another's clone has not.
export GOFLAGS += -buildvcs=false
stage := integration/setup/stage

# limpet's programs for the host: build/bin.
build:
	@$(stage) 'limpet' integration/setup/programs

# What a fresh Debian lacks.
packages:
	@$(stage) 'Debian packages' integration/setup/packages

# What a sandbox needs besides: kernel, image, vsock where the host has none; and an image for its containers.
guest: kernel image vsock busybox

kernel: packages
	@$(stage) 'guest kernel' integration/setup/kernel

image: packages
	@$(stage) 'guest image' integration/setup/image

vsock: packages
	@$(stage) 'vsock daemon' integration/setup/vsock

busybox: packages
	@$(stage) 'busybox image' integration/setup/busybox

# containerd, ctr, runc and staticcheck at fixed versions.
containerd: packages
	@$(stage) 'containerd' integration/setup/tools

setup: forget-stages packages guest build containerd

.PHONY: forget-stages
forget-stages:
	@rm -f build/stages

run: setup
	@$(stage) 'demonstration' go build -o build/demonstration ./integration/cmd/demonstration
	@build/demonstration -stages build/stages

test: lint unit integration booting

lint: setup
	@$(stage) 'gofmt' integration/setup/format
	@$(stage) 'layers' integration/setup/layers
	@$(stage) 'go vet' go vet ./...
	@$(stage) 'staticcheck' build/bin/staticcheck ./...

# Whatever runs without a containerd, under the race detector.
unit: setup
	@$(stage) 'unit tests' go test -race $$(go list ./... | grep -v /integration$$)

# As users have it, sandboxes are clones; booting, all of them boot. Each takes a quarter of an hour on two processors.
suite := go test -count=1 -timeout 40m -v ./integration
integration: setup
	@$(stage) 'integration tests' $(suite)

booting: setup
	@$(stage) 'integration tests, booting' env LIMPET_TEST_TEMPLATES=off $(suite)

EXECS ?= 100
PODS ?= 20
SANDBOXES ?= 50
ROWS ?= .
bench: setup
	@$(stage) 'benchmarks' go run ./integration/bench -rows '$(ROWS)' -execs $(EXECS) -pods $(PODS) -sandboxes $(SANDBOXES) -json build/bench.json

fuzz: packages
	@integration/setup/fuzz

# The programs, their manual and the shells' completions go below PREFIX; kernel and image to where the configuration looks for them.
PREFIX ?= /usr/local
SHARE := $(PREFIX)/share
install: build guest
	install -D -t $(DESTDIR)$(PREFIX)/bin build/bin/containerd-shim-limpet-v2 build/bin/limpet build/bin/vhost-device-vsock
	install -D -m 644 -t $(DESTDIR)/usr/lib/limpet build/vmlinux build/initramfs
	install -D -t $(DESTDIR)/usr/lib/limpet/tools build/tools/limpet-images build/tools/mke2fs build/tools/busybox
	build/bin/limpet man | install -D -m 644 /dev/stdin $(DESTDIR)$(SHARE)/man/man1/limpet.1
	build/bin/limpet completion bash | install -D -m 644 /dev/stdin $(DESTDIR)$(SHARE)/bash-completion/completions/limpet
	build/bin/limpet completion zsh | install -D -m 644 /dev/stdin $(DESTDIR)$(SHARE)/zsh/site-functions/_limpet
	build/bin/limpet completion fish | install -D -m 644 /dev/stdin $(DESTDIR)$(SHARE)/fish/vendor_completions.d/limpet.fish

clean:
	rm -rf build
