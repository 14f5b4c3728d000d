# These targets install everything that a new machine needs, except Go and npm.
BIN     := bin/latchfs
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
PACKAGE_VERSION := $(shell git describe --tags 2>/dev/null | sed s/^v// | grep . || echo 0.0.0-dev.$$(git rev-list --count HEAD)+$(VERSION))
GOFLAGS_STATIC := -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: run build package test test-race test-all test-outlive test-histories test-random test-reboot test-package soak deps lint vuln bench cross clean

# Mount over DIR and serve it until Ctrl-C.
run: build
	@test -n "$(DIR)" || { echo 'usage: make run DIR=<directory>' >&2; exit 2; }
	mkdir -p "$(DIR)"
	$(BIN) mount "$(DIR)"

build:
	CGO_ENABLED=0 go build $(GOFLAGS_STATIC) -o $(BIN) ./cmd/latchfs

# Packages for Debian and Fedora, in bin.
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

# CONTRIBUTING.md has a table of the test targets: what each covers and how long it takes.

INTEGRATION := go test -C integration -count=1

# All tests: unit tests, then real programs in real mounts. Some of these are short; the targets below repeat them
# for longer. The integration tests wait more than they compute, so more of them run at a time than there are
# processors.
test: deps
	go test -count=1 -timeout 20m ./...
	$(INTEGRATION) -p 4 -parallel 4 -timeout 20m ./...

# The race detector in the tests and in latchfs: all unit tests, and the integration tests in which several
# processes use the mount at the same time. RACE_TESTS=. selects all integration tests.
RACE_TESTS := Hammer|Histories$$|BreakersRace|Wait|Turn|Interrupted|Killed$$|KilledDaemon|Upgrade$$|Panic|CrashPoints|SameAsBeneath|Event|DescriptorsAreShared|Inotify|Notifier|HostileUser|Limit|TestMetrics$$|EveryControlFile
test-race: deps
	GORACE=atexit_sleep_ms=0 go test -race -count=1 -timeout 20m ./...
	GORACE=atexit_sleep_ms=0 $(INTEGRATION) -p 2 -parallel 4 -race -timeout 30m -run '$(RACE_TESTS)' ./...

# Everything, with the long versions: hours.
test-all: lint cross test test-reboot test-package test-outlive test-histories test-random soak
	$(MAKE) --no-print-directory test-race RACE_TESTS=.

# The server is killed 1,000 times under load, then replaced 100 times, then keeper and server are killed together
# 1,000 times.
test-outlive: deps
	OUTLIVE_KILLS=1000 OUTLIVE_UPGRADES=100 KEEPER_KILLS=1000 $(INTEGRATION) -parallel 1 -timeout 60m -v -run '^(TestServerKilled|TestUpgrade|TestMountKilled)$$' ./restart

# 200 histories without restarts and 200 with restarts are checked for linearizability.
test-histories: deps
	HISTORIES=200 $(INTEGRATION) -timeout 30m -v -run '^TestHistories$$' ./locks

# 1,000,000 random operations in the mount and in a plain directory, as root and as other users.
test-random: deps
	RANDOM_SEEDS=223 $(INTEGRATION) -timeout 60m -v -run '^TestSameAsBeneath$$/^random$$' ./filesystem

# Mixed load for DURATION. Afterwards memory, descriptors and the journal must not have grown.
soak: deps
	SOAK=$(or $(DURATION),30m) $(INTEGRATION) -timeout 24h -v -run '^TestSoak$$' ./restart

# Virtual machines are reset, and cut from their power, while locks are held.
test-reboot: deps
	REBOOT=1 $(INTEGRATION) -timeout 15m -v -run '^(TestReset|TestPowerCut|TestPowerCutInCompaction)$$' ./vm

# The package is installed on a new Debian, used, and purged.
test-package: deps package
	PACKAGE=1 $(INTEGRATION) -timeout 10m -v -run '^TestPackage$$' ./cli

# What the tests need: modules, programs of the system, a kernel for virtual machines, and npm packages.
deps:
	go mod download
	go mod download -C integration
	./integration/deps

# Both modules: this one and integration.
lint:
	@! git ls-files '*.go' | xargs gofmt -l | grep . || { echo 'run gofmt' >&2; exit 1; }
	go vet ./...
	go vet -C integration ./...
	go vet -tags man ./cmd/latchfs
	GOBIN=$(CURDIR)/bin go install $(STATICCHECK)
	bin/staticcheck ./...
	cd integration && ../bin/staticcheck ./...
	$(MAKE) --no-print-directory vuln

# Known vulnerabilities in what latchfs calls. Without access to the database the target says so, and checks only
# that modules match go.sum and that none is retracted.
vuln:
	GOBIN=$(CURDIR)/bin go install $(GOVULNCHECK)
	@bin/govulncheck ./... || { code=$$?; [ $$code != 3 ] || exit 1; \
		echo 'NOT CHECKED FOR KNOWN VULNERABILITIES: govulncheck cannot reach its database' >&2; \
		go mod verify && ! go list -m -u -retracted -f '{{with .Retracted}}{{$$.Path}} {{$$.Version}} is retracted: {{.}}{{end}}' all | grep .; }

# bootid, lockstore and the command build on other systems too.
cross:
	GOOS=darwin GOARCH=arm64 go build ./...
	GOOS=freebsd GOARCH=amd64 go build ./...
	GOOS=linux GOARCH=arm64 go build ./...

# What operations cost, in latchfs and in other filesystems, side by side. The figures go to BENCH_JSON too, and a
# chart is drawn beside it.
BENCH_JSON := $(CURDIR)/bin/bench.json
bench:
	./integration/deps bench
	mkdir -p $(dir $(BENCH_JSON))
	go test -run '^$$' -bench . -benchmem -count 7 ./bootid ./lockstore/...
	go test -C integration -run '^$$' -bench . -benchmem -count 7 ./bench
	BENCH=1 BENCH_JSON=$(BENCH_JSON) go test -C integration -count=1 -timeout 60m -v -run '^TestBench' ./bench

clean:
	rm -rf bin
