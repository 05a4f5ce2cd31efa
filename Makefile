# Everything starts here: `make run` tries arbiter on this machine, `make test` tests it.
# Each first installs what is missing (`make setup`), says what it does, and is quick otherwise.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# Tests wait more than they work: more of them than CPUs at a time. 0: one after the other. Their
# order is that of tests/conftest.py.
JOBS ?= 4
# Build machines set it, and then each of the thousands of commands that tests start compiles all that
# it imports: a third of the time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup run lab test fuzz bench soak check types format clean distclean install uninstall purge deb test-deb test-vm

help:
	@echo 'make run     decide the connections of this machine, asking in this terminal; Ctrl-C ends it'
	@echo 'make lab     a shell on a make-believe machine with two links, to try everything safely'
	@echo 'make test    all tests, those on the real kernel in network namespaces too'
	@echo 'make fuzz    hostile input for every decoder, guided by coverage: ARGS="--seconds 30 --target dns"'
	@echo 'make check   format, lint, types and tests: what CI runs'
	@echo 'make bench   what connect() costs with a remembered rule, beside OpenSnitch and the bare kernel'
	@echo 'make soak    an hour of faults at random at a real daemon: SOAK_MINUTES=15 ARGS="--seed 7"'
	@echo 'make install   as a service of this machine (PREFIX=/usr/local, DESTDIR=); uninstall; purge'
	@echo 'make deb     a Debian package in dist; make test-deb tries it under a real init (minutes)'
	@echo 'make test-vm   the kernel tests under the stock kernel of Debian, in qemu (minutes): ARGS=tests/kernel/...'
	@echo 'make setup   only install what is missing; the others do it by themselves'
	@echo 'make format  write the code in the one format'
	@echo 'make clean   remove what was built and cached; distclean: also .venv and .state'

setup:
	@PYTHON='$(PYTHON)' VENV='$(VENV)' sh packaging/setup.sh

# The state of such a trial stays in .state, so that the next one remembers the answers.
run: setup
	@sh packaging/as-root.sh $(BIN)/arbiter run --prompt terminal --when-absent pass \
		--state .state --socket .state/arbiter.sock

lab: setup
	@sh packaging/as-root.sh $(BIN)/arbiter lab shell

test: setup
	@sh packaging/as-root.sh --or-namespace $(BIN)/python $(BIN)/python -m pytest \
		-n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Where atheris cannot be installed, run.py says so, and what to do instead.
fuzz: setup
	@$(BIN)/python -c 'import atheris' 2>/dev/null || { echo 'fuzz: installing atheris'; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary atheris \
			-e '.[fuzz]' \
			>/dev/null 2>&1 || true; }
	@$(BIN)/python tests/fuzz/run.py $(ARGS)

bench: setup
	@sh packaging/as-root.sh $(BIN)/python bench/connect.py $(ARGS)

soak: setup
	@sh packaging/as-root.sh $(BIN)/python bench/soak.py $(if $(SOAK_MINUTES),--minutes $(SOAK_MINUTES)) $(ARGS)

# Ruff, mypy and the tests; types and the first look at the tests begin together (packaging/check.sh).
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@sh packaging/check.sh '$(MAKE) --no-print-directory types' '$(MAKE) --no-print-directory test' \
		'$(BIN)/python -m pytest --collect-only -q -p no:cacheprovider'

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

INSTALL := PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PYTHON='$(INSTALL_PYTHON)' sh packaging/install.sh

install:
	@$(INSTALL) install

uninstall:
	@$(INSTALL) uninstall

purge:
	@$(INSTALL) purge

deb:
	@sh packaging/deb/build.sh

test-deb:
	@bash packaging/test-deb.sh

# What a kernel of another make may lack, and its tests then skip: nft's queue, WireGuard, netem,
# dummy, vrf, ipip, gre, connlabel. In there such a skip is a failure (tests/kernel/conftest.py).
# In two machines beside each other, as an emulated one has one CPU.
vm_files = $(patsubst %,tests/kernel/test_%.py,$(1))
STOCK_1 := $(call vm_files,traffic_classes tunnels real_links fastpath_changes) -k 'not legacy'
STOCK_2 := $(call vm_files,nftables firewall firewall_denied firewall_marks firewall_applied firewall_seen firewall_looks firewall_over \
	faults_ruleset older_job twelve twelve_prompts twelve_others class_job suspend fastpath fastpath_owners \
	fastpath_elders fastpath_wherever) \
	-k 'test_firewall and nft and not iptables or test_faults_ruleset.py and nft_table \
	or test_older_job.py and table or test_firewall_over or test_twelve or test_class_job \
	or test_suspend or test_fastpath or test_nftables'
IN_VM = $(BIN)/python packaging/vm/vm.py $(VM) -- $(BIN)/python -m pytest -p no:cacheprovider --durations=5

test-vm:
	@PYTHON='$(PYTHON)' VENV='$(VENV)' sh packaging/setup.sh vm
	@$(if $(ARGS),$(IN_VM) $(ARGS),$(MAKE) -s -j2 -k in-vm-1 in-vm-2)

in-vm-%: SHELL := /bin/bash
in-vm-%: .SHELLFLAGS := -o pipefail -c
in-vm-%:
	@$(IN_VM) -v $(STOCK_$*) 2>&1 | sed -u 's/^/$*: /'

clean:
	rm -rf build dist *.egg-info .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .state
