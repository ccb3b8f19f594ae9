# Everything a developer of Postern does. `make help` lists it.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO            ?= go
FUZZTIME      ?= 20s
BENCH         ?= .
BENCHTIME     ?= 1s
# What make bench-serve measures: proxy/PERFORMANCE.md has the cases and the flags.
LOAD          ?= -bench.cases all
# For the tests of one package. The go command's own ten minutes are few where
# the machine is slow and has much else to do; a test that hangs ends all the same.
TIMEOUT       ?= 40m
# bcrypt computes on memory of its own, where there is no race to find, and with the
# detector it takes ten times as long as without.
RACE          := -race -gcflags=golang.org/x/crypto/blowfish=-race=false
ARGS          ?= demo
GOLANGCI      := v2.15.0
# Not in go.mod: what makes packages has a hundred modules, and none of them is ours to ship.
NFPM          := v2.45.2
BIN           := $(CURDIR)/bin
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Postfix's master starts as root and nobody else can start it, so the e2e
# tests run as root. The tests are built as you; only the finished test binary
# is handed to $(AS_ROOT), so that no file in your build cache ends up
# belonging to root.
AS_ROOT ?= $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help build run test poison e2e bench bench-serve fuzz conformance packages lint tools clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  run:   make run ARGS="serve -c FILE"     (ARGS="$(ARGS)")'
	@echo '  bench: make bench BENCH=Session BENCHTIME=3s'
	@echo '  bench-serve: make bench-serve LOAD="-bench.cases a,c -bench.old /usr/bin/postern" (needs root, as e2e does)'
	@echo '  fuzz:  make fuzz FUZZTIME=1m             (FUZZTIME=$(FUZZTIME) for each target)'
	@echo '  e2e:   make e2e AS_ROOT=doas             (needs root; AS_ROOT="$(AS_ROOT)")'

build: ## build ./bin/postern, static, as it is shipped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN)/postern ./cmd/postern

run: ## run postern from the sources: the demo, or ARGS="serve --backend HOST:PORT"
	$(GO) run ./cmd/postern $(ARGS)

test: ## vet, and every test with the race detector, in random order
	$(GO) vet ./...
	$(GO) test $(RACE) -vet=off -shuffle=on -timeout $(TIMEOUT) ./...

# Those that use proxy/reuse, or read what others have in memory of it.
POISONED := ./proxy ./proxy/amtp ./proxy/amtp/holder ./proxy/amtp/receiver ./proxy/backend ./proxy/esmtp ./proxy/fields ./proxy/hold ./proxy/relay ./proxy/reuse ./proxy/wire \
	./checks ./checks/dkim ./checks/dnscache ./policy/journal ./policy/journal/jsonline ./cmd/postern/page ./cmd/postern/trial

poison: ## tests in a build that spoils the memory which is used again, to find who reads it too late
	$(GO) test -tags poison -vet=off -short -timeout $(TIMEOUT) $(POISONED)

e2e: $(BIN)/mtas ## the built binary with a real Postfix, DNS and clients, SPF against pyspf and DKIM against opendkim (Debian: see .ci/run for the packages)
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/postern ./cmd/postern
	$(GO) test -tags e2e $(RACE) -count=1 -timeout $(TIMEOUT) $(if $(AS_ROOT),-exec "$(AS_ROOT)") ./cmd/postern -run E2E -v -e2e.postern $(BIN)/postern -e2e.mtas $(BIN)/mtas
	$(GO) test -tags e2e -count=1 -timeout $(TIMEOUT) ./checks/spf -run E2E -v
	$(GO) test -tags e2e -count=1 -timeout $(TIMEOUT) ./checks -run E2E -v
	$(GO) test -tags e2e $(RACE) -count=1 -timeout $(TIMEOUT) $(if $(AS_ROOT),-exec "$(AS_ROOT)") ./proxy/backend -run TestPostfix -v

# Exim and OpenSMTPD for the e2e tests, unpacked and not installed.
$(BIN)/mtas: .ci/mtas
	.ci/mtas $@
	@touch $@

bench: ## the Go benchmarks, with allocations
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem ./...

bench-serve: ## the built binary under load, beside HAProxy and nginx (Debian: postfix, haproxy, nginx-light, libnginx-mod-mail, strace)
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/postern ./cmd/postern
	$(GO) test -c -tags e2e -o $(BIN)/bench.test ./cmd/postern
	cd cmd/postern && $(AS_ROOT) $(BIN)/bench.test -test.run '^TestBench$$' -test.timeout 3h -e2e.postern $(BIN)/postern $(LOAD)

# Up to Go 1.26 the fuzzer now and then takes the end of its own time for a failure
# (go.dev/issue/75804): then all that it says of it is "context deadline exceeded", and
# there is no input that fails.
#
# A package is built once for all of its targets, which `go test -fuzz` would do for each.
fuzz: ## run each fuzz target of the tree for FUZZTIME
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; cache=$$($(GO) env GOCACHE)/fuzz; \
	n=0; while read -r pkg dir; do \
	  targets=$$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$dir"/*_test.go 2>/dev/null || true); \
	  if [ -z "$$targets" ]; then continue; fi; \
	  $(GO) test -c -fuzz=Fuzz -o "$$out/fuzz.test" "$$pkg"; \
	  for target in $$targets; do \
	    echo "== $$pkg $$target ($(FUZZTIME))"; \
	    if ! (cd "$$dir" && "$$out/fuzz.test" -test.run '^$$' -test.fuzz "^$$target\$$" -test.fuzztime $(FUZZTIME) -test.fuzzminimizetime 1s \
	        -test.fuzzcachedir "$$cache/$$pkg") 2>&1 | tee "$$out/said" && \
	      ! awk -f .ci/fuzz.awk "$$out/said"; then exit 1; fi; \
	    grep -q '^fuzz: elapsed' "$$out/said"; \
	    n=$$((n + 1)); \
	  done; \
	done < <($(GO) list -f '{{.ImportPath}} {{.Dir}}' ./...); \
	echo "$$n fuzz targets, no failure"; test "$$n" -gt 0

# Only their packages are built for it.
SUITES := Test[A-Za-z0-9_]*(Suite|Conformance)|TestResponses|TestUnboundScenarios

conformance: ## the published and RFC-derived suites, as one table with the deviations and their reasons
	@out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	packages=$$(grep -rlE --include='*_test.go' '^func ($(SUITES))' checks proxy | xargs -n1 dirname | sed 's,^,./,' | sort -u); \
	if ! $(GO) test -vet=off -count=1 -v -timeout $(TIMEOUT) -run '^($(SUITES))' $$packages >"$$out" 2>&1; then \
	  cat "$$out"; exit 1; \
	fi; \
	awk -f .ci/conformance.awk checks/dnscache/rpl_test.go "$$out"

# The version of a package has no hyphen: 1.2.0 of v1.2.0, and 0.0.0~abcdef of what has no tag.
PACKAGE_VERSION = $(if $(filter v%,$(VERSION)),$(subst -,~,$(VERSION:v%=%)),0.0.0~$(subst -,.,$(VERSION)))

packages: $(BIN)/nfpm-$(NFPM) ## .deb and .rpm for amd64 and arm64, in ./bin/packages
	rm -rf $(BIN)/package $(BIN)/packages; mkdir -p $(BIN)/package/man $(BIN)/packages
	for arch in amd64 arm64; do \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN)/package/postern-$$arch ./cmd/postern; \
	  $(GO) run .ci/bom/main.go $(BIN)/package/postern-$$arch $(BIN)/package/bom-$$arch.cdx.json $(BIN)/package/copyright $(BIN)/package/licences.txt; \
	done
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN)/package/postern ./cmd/postern
	cd $(BIN)/package && ./postern manual man && gzip -9n man/*.8
	cd $(BIN)/package && ./postern completion bash >postern.bash && ./postern completion zsh >_postern && ./postern completion fish >postern.fish
	for unit in postern postern-amtp-hold; do \
	  sed 's,/usr/local/bin/postern,/usr/bin/postern,' deploy/systemd/$$unit.service >$(BIN)/package/$$unit.service; \
	done
	gzip -9nc CHANGELOG.md >$(BIN)/package/changelog.gz
	for arch in amd64 arm64; do for format in deb rpm; do \
	  ARCH=$$arch VERSION=$(PACKAGE_VERSION) $(BIN)/nfpm-$(NFPM) package -f deploy/packaging/nfpm.yaml -p $$format -t $(BIN)/packages; \
	done; done
	@ls -l $(BIN)/packages

$(BIN)/nfpm-$(NFPM):
	@mkdir -p $(BIN)
	GOBIN=$(BIN)/.nfpm $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM)
	@mv $(BIN)/.nfpm/nfpm $@; rmdir $(BIN)/.nfpm

lint: $(BIN)/.golangci-$(GOLANGCI) ## gofmt, go.mod, golangci-lint, and the arrows between the rooms
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) mod tidy -diff
	$(BIN)/golangci-lint run ./...
	$(GO) test -count=1 -run 'TestArrows' ./cmd/postern

# One version for everybody, or lint says different things on different days.
# Building it takes minutes, so one that is installed already will do if it is
# of that version.
$(BIN)/.golangci-$(GOLANGCI):
	@mkdir -p $(BIN); rm -f $(BIN)/golangci-lint; \
	found=$$(command -v golangci-lint || true); \
	if [ -n "$$found" ] && "$$found" version | grep -qF "version $(GOLANGCI:v%=%) "; then \
	  ln -s "$$found" $(BIN)/golangci-lint; \
	else \
	  GOBIN=$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI); \
	fi
	@touch $@

tools: $(BIN)/.golangci-$(GOLANGCI) $(BIN)/mtas ## fetch what lint and e2e have from elsewhere

clean: ## remove what the other targets made
	rm -rf $(BIN)
	$(GO) clean -testcache
