# What a developer or a visitor needs; the robot's build is colcon's.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo bench check exact fuzz soak test test-web test-board test-aarch64 board-wheel audit format lint clean

# A sourced ROS must not mix with the one in .venv.
VENV := . scripts/without_ros.sh && .venv/bin/python
ARGS ?=

help:
	@echo 'make demo          ask a small built-in vision model about pictures, through ROS 2 topics'
	@echo 'make bench         measure what the engine promises (minutes, on a quiet machine);'
	@echo '                   ARGS="--sweep" only finds the best number of threads, ARGS="--help": more'
	@echo 'make check         style, types and the tests that need no ROS, in a minute'
	@echo 'make test          run the tests (ARGS="-k name" chooses)'
	@echo 'make soak          use real nodes at random, with faults, for two minutes; ARGS="--hours 8"'
	@echo '                   takes longer, ARGS="--seed 1" repeats a run'
	@echo 'make exact         random conversations, each answer held against a fresh engine (ARGS=2000)'
	@echo 'make fuzz          feed all that is read from outside with nonsense (ARGS="--minutes 10")'
	@echo 'make board-wheel   compile llama.cpp for the boards: a wheel in dist/, which pip installs there'
	@echo 'make test-web      run the tests of the HTTP server and its page (installs Chromium)'
	@echo 'make test-board    run the tests of the BPU encoders on an emulated X5 and S100 (installs qemu)'
	@echo 'make test-aarch64  install that wheel there and run all but ROS'
	@echo 'make audit         ask PyPI whether what is pinned has known vulnerabilities'
	@echo 'make format        lay the code out'
	@echo 'make lint          check style and types'
	@echo 'make clean         remove .venv and build outputs (compiled things stay in ~/.cache)'
	@echo
	@echo 'The first run installs ROS 2 and llama.cpp into .venv (4 to 10 minutes).'
	@echo 'PYTHON=/path/to/python3.11 chooses the Python.'

demo:
	@scripts/bootstrap.sh
	@$(VENV) -m hobot_llamacpp_py.tools.demo $(ARGS)

bench:
	@scripts/bootstrap.sh bench test web interfaces $(if $(findstring --plot,$(ARGS)),plot)
	@scripts/interfaces.sh
	@$(if $(ARGS),$(VENV) -m hobot_llamacpp_py.tools.bench $(ARGS); exit $$?;) \
	status=0; $(VENV) -m hobot_llamacpp_py.tools.bench || status=$$?; \
	  printf '\nThe node with a camera:\n'; \
	  test/with_interfaces.sh .venv/bin/python -m hobot_llamacpp_py.tools.bench_node || status=$$?; \
	  printf '\nHow light the node is:\n'; \
	  $(VENV) -m hobot_llamacpp_py.tools.bench_light || status=$$?; \
	  printf '\nStanding questions:\n'; \
	  $(VENV) -m hobot_llamacpp_py.tools.bench_watch || status=$$?; \
	  printf '\nThe HTTP server:\n'; \
	  $(VENV) -m hobot_llamacpp_py.tools.bench_http || status=$$?; \
	  printf '\nThreads beside busy neighbours:\n'; \
	  $(VENV) -m hobot_llamacpp_py.tools.bench_threads || status=$$?; \
	  printf '\nA timer of 10 ms while an encoder holds its own GIL for 2.4 s:\n'; \
	  . scripts/without_ros.sh; PYTHONPATH=. .venv/bin/python test/timer_delay.py && exit $$status

soak:
	@scripts/bootstrap.sh test web plot interfaces
	@scripts/interfaces.sh
	@$(subst .venv/bin/python,PYTHONPATH=.:test .venv/bin/python,$(VENV)) test/soak.py $(ARGS)

exact:
	@scripts/bootstrap.sh test web
	@export SEQUENCES=$(or $(ARGS),200) && \
	  $(VENV) -m pytest -q test/engine/test_reuse.py -k conversation

fuzz:
	@scripts/bootstrap.sh test web interfaces
	@scripts/interfaces.sh
	@$(subst .venv/bin/python,PYTHONPATH=.:test .venv/bin/python,$(VENV)) -m fuzz.run $(ARGS)

test:
	@scripts/bootstrap.sh bench chat models overlay plot test web web_test interfaces
	@scripts/interfaces.sh
	@$(VENV) -m pytest -n $$(($$(nproc) + 1)) --maxprocesses 4 --dist loadfile --durations=20 $(ARGS)

check: lint
	@scripts/bootstrap.sh bench overlay test
	@$(VENV) -m pytest -q -x -m 'not slow' test/drawing test/engine test/health test/vision \
	  test/test_documents.py test/test_families.py test/test_parameters.py test/test_structure.py $(ARGS)

test-web:
	@scripts/bootstrap.sh test web web_test
	@scripts/browser.sh
	@$(VENV) -m pytest --durations=10 test/web $(ARGS)

test-board:
	@scripts/bootstrap.sh test
	@. scripts/without_ros.sh && for board in x5 s100; do \
	  PYTHON=.venv/bin/python test/board/run.sh $$board || exit; done
	@$(VENV) -m pytest --durations=10 test/board test/ros/test_encoder_process.py $(ARGS)

board-wheel:
	@scripts/board_wheel.sh

test-aarch64:
	@scripts/bootstrap.sh bench test
	@. scripts/without_ros.sh && PYTHON=.venv/bin/python test/board/whole_package.sh
	@$(VENV) -m pytest --durations=10 test/board/test_wheel.py $(ARGS)

audit:
	@scripts/audit.sh

format:
	@scripts/bootstrap.sh test
	@$(VENV) -m ruff check --fix --select I .
	@$(VENV) -m ruff format .

lint:
	@scripts/bootstrap.sh test
	@$(VENV) -m ruff check .
	@$(VENV) -m ruff format --check .
	@$(VENV) -m mypy
	@if command -v shellcheck >/dev/null; then shellcheck -x scripts/*.sh test/*.sh test/board/*.sh .ci/run; fi

clean:
	rm -rf .venv build dist install log .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
