# Each target sets itself up in .venv: nothing but Python 3.11 and a C++ compiler is needed.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.6.0
SMALL ?= Qwen/Qwen2.5-Coder-0.5B-Instruct
LARGE ?= Qwen/Qwen2.5-Coder-1.5B-Instruct
ROUTER ?= glimp:1.0
PROMPT ?= A baker sells 12 loaves in the morning and half as many in the afternoon, at 3 dollars each. \
	How much does she earn in a week?
SIDE_BY_SIDE = --numprocesses auto --dist loadgroup

.PHONY: demo run test test-fast lint sanitize sanitize-address sanitize-thread sanitize-undefined

demo: .venv/installed
	.venv/bin/glimp demo

run: .venv/installed
	.venv/bin/glimp run --small "$(SMALL)" --large "$(LARGE)" --router "$(ROUTER)" "$(PROMPT)"

test: lint
	.venv/bin/pytest $(SIDE_BY_SIDE)

# For the daily loop: without interpreted and compiled kernels, real checkpoints, and what takes seconds.
test-fast: .venv/installed-for-tests
	.venv/bin/ruff check .
	.venv/bin/pytest $(SIDE_BY_SIDE) -m "not slow"

lint: .venv/installed-for-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python setup.py --quiet build_py --build-lib build/typed
	cd build/typed && ../../.venv/bin/mypy --config-file ../../pyproject.toml -p glimp_engine

LIVES = tests/e2e/test_whole_lives.py -k "not whole_lives or native"

# The ops' tests with a library that looks for its own faults; PyTorch's threads can't be looked into, so it has one.
sanitize: sanitize-address sanitize-thread sanitize-undefined

sanitize-address: RUNTIME = libasan.so
sanitize-thread: RUNTIME = libtsan.so
sanitize-undefined: RUNTIME = libubsan.so
sanitize-address sanitize-thread sanitize-undefined: sanitize-%: .venv/installed-for-tests
	cmake -S . -B build/$* -G Ninja -DGLIMP_SANITIZE=$*
	cmake --build build/$*
	PYTHONPATH=tests GLIMP_LIBRARY=$(CURDIR)/build/$*/libglimp.so OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$($(CXX) -print-file-name=$(RUNTIME)) $$($(CXX) -print-file-name=libstdc++.so)" \
	.venv/bin/pytest -p other_library tests/ops tests/native/test_abi.py tests/e2e/test_native_model.py $(LIVES)

.venv/installed: pyproject.toml setup.py CMakeLists.txt $(wildcard csrc/*.h csrc/cpu/*)
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet "$(TORCH)" -e .
	touch $@

.venv/installed-for-tests: .venv/installed
	.venv/bin/pip install --quiet "$(TORCH)" "$(TRITON)" -e '.[test]'
	touch $@
