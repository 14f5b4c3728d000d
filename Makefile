# Everything a fresh machine needs is installed by these targets.
BIN     := bin/latchfs
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
PACKAGE_VERSION := $(shell git describe --tags 2>/dev/null | sed s/^v// | grep . || echo 0.0.0-dev.$$(git rev-list --count HEAD)+$(VERSION))
GOFLAGS_STATIC := -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: run build package test test-race test-outlive test-histories test-random test-reboot test-package soak deps lint vuln bench cross clean

# Mount over DIR and serve it until Ctrl-C.
run: build
	@test -n "$(DIR)" || { echo 'usage: make run DIR=<directory>' >&2; exit 2; }
	mkdir -p "$(DIR)"
	$(BIN) mount "$(DIR)"

build:
	CGO_ENABLED=0 go build $(GOFLAGS_STATIC) -o $(BIN) ./cmd/latchfs

# Packages for Debian and its like, and for Fedora and its like, in bin.
package: build
	rm -rf bin/package bin/latchfs_*.deb bin/latchfs-*.rpm && mkdir -p bin/package/man
	SOURCE_DATE_EPOCH=$(EPOCH) go run -tags man $(GOFLAGS_STATIC) ./cmd/latchfs man bin/package/man
	gzip -9n bin/package/man/*
	gzip -9nc CHANGELOG.md >bin/package/changelog.gz
	$(BIN) completion bash >bin/package/latchfs.bash
	$(BIN) completion zsh >bin/package/_latchfs
	$(BIN) completion fish >bin/package/latchfs.fish
	for packager in deb rpm; do \
		GOARCH=$$(go env GOARCH) VERSION=$(PACKAGE_VERSION) SOURCE_DATE_EPOCH=$(EPOCH) \
		go tool -modfile=cmd/latchfs/package/tools.mod nfpm package -f cmd/latchfs/package/nfpm.yaml -p $$packager -t bin || exit 1; \
	done

# Unit tests, then the real programs in a real mount.
test: deps
	go test -count=1 -timeout 20m ./...

# With the race detector, in the tests and in the daemon: all unit tests, and of the others those in which requests and deaths
# of several processes meet.
RACE_TESTS := Hammer|Histories$$|Soak|Killed|Upgrade|Wait|Turn|Event|Many|SameAsBeneath|CrashPoints|Race|Metrics|Inotify|Data|EveryForm|Command|Directory|Holder|Writes|Operators|Limits|Hostile|Restart|Programs
test-race: deps
	GORACE=atexit_sleep_ms=0 go test -race -count=1 -timeout 20m $$(go list ./... | grep -v /integration)
	GORACE=atexit_sleep_ms=0 go test -race -count=1 -timeout 20m -run '$(RACE_TESTS)' ./integration

# The server killed 1,000 times under load, then replaced 100 times, then keeper and server killed
# together 1,000 times: about fifteen minutes.
test-outlive: deps
	OUTLIVE_KILLS=1000 OUTLIVE_UPGRADES=100 KEEPER_KILLS=1000 go test -count=1 -timeout 60m -v -run '^(TestServerKilled|TestUpgrade|TestMountKilled)$$' ./integration

# 200 histories without and 200 with restarts, checked for linearizability: about four minutes.
test-histories: deps
	HISTORIES=200 go test -count=1 -timeout 30m -v -run '^TestHistories$$' ./integration

# 1,000,000 random operations in the mount and beneath, as root and as other users: about six minutes.
test-random: deps
	RANDOM_SEEDS=223 go test -count=1 -timeout 60m -v -run '^TestSameAsBeneath$$/^random$$' ./integration

# Mixed load for DURATION, and what must not have grown after it.
soak: deps
	SOAK=$(or $(DURATION),30m) go test -count=1 -timeout 24h -v -run '^TestSoak$$' ./integration

# Virtual machines reset, and cut from power, while locks are held: about three minutes.
test-reboot: deps
	REBOOT=1 go test -count=1 -timeout 15m -v -run '^(TestReset|TestPowerCut|TestPowerCutInCompaction)$$' ./integration

# The package installed on a new Debian, used, and purged: about a minute.
test-package: deps package
	PACKAGE=1 go test -count=1 -timeout 10m -v -run '^TestPackage$$' ./integration

# What the tests need beside Go: programs of the system and OpenClaw's package.
deps:
	./integration/deps

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt' >&2; exit 1; }
	go vet ./...
	go vet -tags man ./cmd/latchfs
	go run $(STATICCHECK) ./...
	$(MAKE) --no-print-directory vuln

# Known vulnerabilities in what latchfs calls. Where their database cannot be reached, which is said,
# only what can be known without: that modules are what go.sum says, and none is retracted.
vuln:
	GOBIN=$(CURDIR)/bin go install $(GOVULNCHECK)
	@bin/govulncheck ./... || { code=$$?; [ $$code != 3 ] || exit 1; \
		echo 'NOT CHECKED FOR KNOWN VULNERABILITIES: govulncheck cannot reach its database' >&2; \
		go mod verify && ! go list -m -u -retracted -f '{{with .Retracted}}{{$$.Path}} {{$$.Version}} is retracted: {{.}}{{end}}' all | grep .; }

# bootid and lockstore build wherever their identity exists; so does the command.
cross:
	GOOS=darwin GOARCH=arm64 go build ./...
	GOOS=freebsd GOARCH=amd64 go build ./...
	GOOS=linux GOARCH=arm64 go build ./...

# What things cost, in latchfs and beside other filesystems in the same run: about twenty minutes. Operations are
# written to BENCH_JSON too, and drawn beside it.
BENCH_JSON := $(CURDIR)/bin/bench.json
bench:
	./integration/deps bench
	mkdir -p $(dir $(BENCH_JSON))
	go test -run '^$$' -bench . -benchmem -count 7 ./bootid ./lockstore
	BENCH=1 BENCH_JSON=$(BENCH_JSON) go test -count=1 -timeout 60m -v -run '^TestBench' ./integration

clean:
	rm -rf bin
