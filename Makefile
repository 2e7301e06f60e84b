# Commands for users who try it out and for developers; CONTRIBUTING.md explains them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(CURDIR)/run
BROKER ?= sqla+sqlite:///$(RUN)/bus.sqlite
# a Python that the published Panko runs on, the environment for it, and how many of its events are adopted
PANKO_PYTHON ?= python3.8
PANKO := $(RUN)/panko
EVENTS ?= 10000
# more words for what is run, as in: make test ARGS='-k sqlite'
ARGS ?=
# how many run tests at once: on two cores four, as many tests wait for a server most of the time
PROCESSES ?= 4
# Tests start the program some hundred times, each time compiling it anew where Python may not keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

PIP_INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt
PYTEST := PANKO_INGEST_REQUIRE_SERVICES=1 $(BIN)/pytest
SERVICES := postgresql pgbouncer mariadb-server galera-4 haproxy rabbitmq-server prometheus
FORKY := $(or $(PANKO_INGEST_CHROOTS),/var/tmp/panko-ingest-chroots)/forky

# whose versions are audited
AUDITED ?= constraints.txt
# with which versions it is tested: OpenStack's upper constraints, and Pythons that are on this machine
CONSTRAINTS ?=
PYTHONS ?= 3.11 3.12 3.13 3.14
define with-versions
PANKO_INGEST_RUN_COMMAND='make $@' PROCESSES=$(PROCESSES) tests/with_versions.sh $(1) $(2) $(3) $(ARGS)
$(BIN)/python -m tests.compatibility
endef

.PHONY: help test-queries run walk-through walk-through-cluster test lint venv services fuzz test-constraints test-floors test-pythons \
    test-bookworm test-trixie test-forky test-counters forky test-systemd test-repeats test-faults simulate soak \
    test-concurrency test-upgrade \
    test-panko test-differential \
    bench bench-full bench-catch-up bench-buses bench-report bench-storage bench-reading bench-expire bench-convert bench-metrics \
    sample-config docs docs-pictures site constraints audit dist clean

help: ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

run: $(VENV)/.package ## try it out: BROKER=amqp://... for a RabbitMQ instead of the embedded transport
	@mkdir -p $(RUN)
	printf '%s\n' > $(RUN)/panko-ingest.conf \
	    '[DEFAULT]' 'transport_url = $(BROKER)' '' \
	    '[database]' 'connection = sqlite:///$(RUN)/events.sqlite' '' \
	    '[notification]' 'workers = 1'
	# A job of its own gets Ctrl-C alone, so that make ends well.
	if [ -t 0 ]; then set -m; fi
	docs/try-it.sh $(BIN)/panko-ingest $(RUN) || exit

walk-through: venv services dist ## an operator's first day on private servers: install, run, watch, break, mend
	rm -rf $(RUN)/walk-through
	$(BIN)/python -m tests.walk_through alone $(RUN)/walk-through $$(ls -t dist/*.whl | head -n 1)

walk-through-cluster: venv services dist ## the same in a cloud: Galera behind HAProxy, three nodes of RabbitMQ, three vhosts
	rm -rf $(RUN)/walk-through-cluster
	$(BIN)/python -m tests.walk_through cluster $(RUN)/walk-through-cluster $$(ls -t dist/*.whl | head -n 1)

test: venv services lint ## lint, then every test but the long ones; installs servers from Debian if missing
	$(PYTEST) -p tests.compatibility --numprocesses $(PROCESSES) --dist worksteal -m 'not long' $(ARGS)

lint: venv ## check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(VENV)/.development ## make the developers' virtual environment

services: ## install PostgreSQL, PgBouncer, MariaDB, Galera, HAProxy, RabbitMQ, Prometheus and Chromium from Debian, without starting them
	@tests/services/install.sh $(SERVICES) systemd curl iproute2 iptables chromium

fuzz: venv ## decode and convert 200,000 mutated bodies
	$(PYTEST) -m long tests/unit/test_fuzz.py $(ARGS)

test-queries: venv services ## 15,000 random queries on each database and layout, beside a model of what they must find
	$(PYTEST) -m long tests/integration/storage/test_queries.py $(ARGS)

simulate: venv ## the delivery path in simulated worlds: make simulate SEEDS=100000 FIRST=0
	$(BIN)/python -m tests.simulation $(or $(SEEDS),10000) --first $(or $(FIRST),0)

soak: venv services ## random faults under load: make soak MINUTES=60; writes docs/soak.md
	$(BIN)/python -m tests.faults.soak $(or $(MINUTES),60)

test-bookworm: venv ## make test on a fresh Debian 12 (needs root)
	tests/chroot.sh bookworm
	$(BIN)/python -m tests.compatibility

test-trixie: venv ## make test on a fresh Debian 13 (needs root)
	tests/chroot.sh trixie
	$(BIN)/python -m tests.compatibility

test-constraints: venv services ## every test with the versions of a file: CONSTRAINTS=upper-constraints.txt
	@if [ ! -r "$(CONSTRAINTS)" ]; then echo 'Name a file of constraints: make $@ CONSTRAINTS=...' >&2; exit 2; fi
	$(call with-versions,$(basename $(notdir $(CONSTRAINTS))),$(PYTHON),$(CONSTRAINTS))

test-floors: venv services ## every test with the lowest versions that pyproject.toml accepts
	@mkdir -p $(RUN)
	$(BIN)/python -m tests.floors > $(RUN)/floors.txt
	$(call with-versions,floors,$(PYTHON),$(RUN)/floors.txt)

test-pythons: venv services ## every test on each supported Python of this machine: PYTHONS='3.11 3.12'
	@for version in $(PYTHONS); do
	    python=$$(ls -d ~/.pyenv/versions/$$version.*/bin/python 2>/dev/null | tail -n 1) || python=python$$version
	    if ! $$python -c '' 2>/dev/null; then echo "Python $$version is not on this machine: left out"; continue; fi
	    $(call with-versions,python$$version,$$python,constraints.txt)
	done

test-forky: venv ## make test on a fresh Debian forky, whose servers are newer (needs root)
	tests/chroot.sh forky
	$(BIN)/python -m tests.compatibility

test-counters: venv services forky ## delivery limits by the counters of RabbitMQ 4.3, from a tree of Debian forky (needs root)
	$(PYTEST) -m long tests/integration/test_refusals.py $(ARGS)

forky: ## a Debian forky whose servers tests can use: RabbitMQ 4.3, PostgreSQL 18, MariaDB 11.8 (needs root)
	if [ ! -e $(FORKY) ]; then
	    rm -rf $(FORKY).part
	    tests/debian_tree.sh forky $(FORKY).part $(SERVICES)
	    mv $(FORKY).part $(FORKY)
	fi

test-systemd: venv services ## the service on a fresh Debian 12 that a real systemd runs in a container (needs root)
	tests/services/install.sh systemd-container debootstrap
	$(PYTEST) -m long tests/systemd $(ARGS)

test-concurrency: venv services ## four writers and an expirer at once for a minute, on each database
	$(PYTEST) -m long tests/integration/storage/test_concurrency.py $(ARGS)

test-repeats: venv services ## the larger sizes and further repeats of integration tests that make test leaves out
	$(PYTEST) --numprocesses $(PROCESSES) --dist worksteal -m long tests/integration \
	    $(addprefix --ignore tests/integration/,storage/test_queries.py storage/test_concurrency.py test_refusals.py) $(ARGS)

test-upgrade: venv services ## two releases on one database while its schema is upgraded
	$(PYTEST) -m long tests/acceptance/test_rolling_upgrade.py $(ARGS)

test-faults: venv services ## break things for real, the long way; writes docs/faults.md
	rm -f test-results/faults.jsonl
	$(PYTEST) --numprocesses $(PROCESSES) --dist worksteal tests/faults $(ARGS)
	$(BIN)/python -m tests.faults.report > docs/faults.md

test-panko: venv services ## adopt what the published Panko made, move from Ceilometer: PANKO_PYTHON=python3.8 EVENTS=1000000
	if [ ! -e $(PANKO)/.complete ]; then
	    $(PANKO_PYTHON) -m venv --clear $(PANKO)
	    $(PANKO)/bin/pip install --quiet 'pip<25.1' 'setuptools<66' wheel
	    $(PANKO)/bin/pip install --quiet --no-build-isolation --requirement tests/compat/requirements.txt
	    touch $(PANKO)/.complete
	fi
	PANKO_INGEST_PANKO_PYTHON=$(PANKO)/bin/python PANKO_INGEST_ADOPTED_EVENTS=$(EVENTS) \
	    $(PYTEST) -m long -o log_cli=true --log-cli-level=INFO tests/compat $(ARGS)

test-differential: venv ## compare conversion with Ceilometer's own on mutated notifications
	$(BIN)/python -m tests.differential $(ARGS)

bench: venv services ## the whole way into PostgreSQL, beside its limits, and latency
	$(BIN)/python -m benchmarks.suite $(if $(RELEASE),--release $(RELEASE)) $(ARGS)

bench-full: venv services ## every benchmark of docs/performance; goes on where it was interrupted
	$(BIN)/python -m benchmarks.suite --full $(if $(RELEASE),--release $(RELEASE)) $(ARGS)

bench-catch-up: venv services ## a backlog drained by itself, and while 500 messages a second arrive
	$(BIN)/python -m benchmarks.suite --step backlog --again $(ARGS)

bench-buses: venv services ## 12 buses beside one, on a quiet machine and on a busy one
	$(BIN)/python -m benchmarks.suite --step buses --step bus-delays --again $(ARGS)

bench-report: venv ## write docs/performance anew from its results
	$(BIN)/python -m benchmarks.report

bench-storage: venv services ## record_events beside what each database takes at all
	$(BIN)/python -m benchmarks.storage $(ARGS)

bench-reading: venv services ## reading with a million events stored
	$(BIN)/python -m benchmarks.reading $(ARGS)

bench-expire: venv services ## expiry beside plain deletion, its price for ingest, and partitions
	$(BIN)/python -m benchmarks.expire $(ARGS)

bench-convert: venv ## decoding and conversion beside plain JSONPath
	$(BIN)/python -m benchmarks.convert $(ARGS)

sample-config: venv ## make etc/panko-ingest.conf anew from the options
	$(BIN)/oslo-config-generator --config-file etc/panko-ingest-config-generator.conf

docs: sample-config ## write the generated parts of the documents anew
	$(BIN)/python docs/generate.py

docs-pictures: venv services ## draw docs/dashboard.png (a real run with an outage, four minutes) and docs/page.png anew
	$(BIN)/python -m benchmarks.dashboard docs/dashboard.png
	PANKO_INGEST_PICTURE=docs/page.png $(PYTEST) tests/integration/test_status_page.py

site: venv ## build the documents as a website in run/site/html; broken links fail
	$(BIN)/python docs/website.py $(RUN)/site
	$(BIN)/mkdocs build --strict --config-file $(RUN)/site/mkdocs.yml

bench-metrics: venv ## what the metrics cost the pipeline
	$(BIN)/python -m benchmarks.metrics $(ARGS)

constraints: ## renew constraints.txt with the newest versions
	rm -rf $(RUN)/fresh
	$(PYTHON) -m venv $(RUN)/fresh
	$(RUN)/fresh/bin/pip install --quiet --upgrade pip
	$(RUN)/fresh/bin/pip install --quiet --editable '.[postgresql,mysql]' --group dev
	{ sed '/^[^#]/,$$d' constraints.txt; $(RUN)/fresh/bin/pip freeze --all --exclude-editable --exclude setuptools; } > $(RUN)/constraints.txt
	mv $(RUN)/constraints.txt constraints.txt

audit: ## look for known vulnerabilities in the versions of constraints.txt
	@if [ ! -x $(RUN)/audit/bin/pip-audit ]; then
	    $(PYTHON) -m venv $(RUN)/audit
	    $(RUN)/audit/bin/pip install --quiet pip-audit
	fi
	if ! $(RUN)/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement $(AUDITED) $(ARGS) 2>&1 \
	    | tee $(RUN)/audit.txt; then
	    if ! grep --quiet '^Found ' $(RUN)/audit.txt; then
	        echo 'Nothing was found out: the list of known vulnerabilities can not be asked from here, as the line' \
	            "above says. It takes the package index itself, not a mirror; ARGS='--vulnerability-service osv'" \
	            'asks another list.' >&2
	    fi
	    exit 1
	fi

dist: venv ## build sdist and wheel into dist/, the same bytes every time
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --no-isolation --outdir dist

clean: ## remove everything that was made here
	rm -rf $(VENV) $(RUN) build dist test-results *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	    echo 'Python 3.11 or later is needed; name it: make PYTHON=python3.12 ...' >&2
	    exit 1
	fi
	if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then tests/services/install.sh python3-venv; fi
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip

$(VENV)/.package: pyproject.toml constraints.txt | $(BIN)/pip
	@echo 'Installing panko-ingest into $(VENV)'
	$(PIP_INSTALL) --build-constraint constraints.txt --editable '.[postgresql,mysql]'
	touch $@

$(VENV)/.development: $(VENV)/.package
	@echo 'Installing what its tests need into $(VENV)'
	$(PIP_INSTALL) --group dev
	touch $@
