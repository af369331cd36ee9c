# Everyday commands. PYTHON picks the interpreter the virtual environment is made with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format cpp-test queued-test sanitize hostile-asan clean

demo: $(BIN)/moeflux  ## set up and let the demo model write
	$(BIN)/moeflux generate "def main(" --echo --memory 17MB --context 512 --max-tokens 128 \
		--temperature 0.5 --seed 3

test: $(BIN)/moeflux  ## set up and pass the tests that need nothing but g++ and PyPI
	$(BIN)/pip install -q pytest hypothesis gguf safetensors
	@echo "not run here: C++ unit tests and sanitizers (make cpp-test sanitize; need doctest-dev), lint (make lint)"
	$(BIN)/python -m pytest -q

$(BIN)/moeflux: pyproject.toml CMakeLists.txt $(shell git ls-files csrc python 2>/dev/null)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q .
	@touch $@

lint:
	$(BIN)/pip install -q ruff mypy clang-format numpy typer rich jinja2 tokenizers huggingface_hub
	$(BIN)/ruff check python tests tools benchmarks examples
	$(BIN)/ruff format --check python tests tools benchmarks examples
	$(BIN)/mypy
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.inc' 'tests/cpp/*' | grep -v CMakeLists | xargs $(BIN)/clang-format --dry-run -Werror

format:
	$(BIN)/ruff format python tests tools benchmarks examples
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.inc' 'tests/cpp/*' | grep -v CMakeLists | xargs $(BIN)/clang-format -i

cpp-test:
	cmake -S . -B build/cpp -DMOEFLUX_TESTS=ON -DMOEFLUX_WERROR=ON
	cmake --build build/cpp -j2
	ctest --test-dir build/cpp --output-on-failure

queued-test: $(BIN)/moeflux  ## goldens and exactness over ops that queue on a thread of their own
	$(BIN)/pip install -q pytest pybind11
	cmake -S . -B build/queued -DMOEFLUX_TESTS=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
		-Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	cmake --build build/queued -j2 --target queued_core
	MOEFLUX_TEST_CORE=build/queued/tests/cpp $(BIN)/python -m pytest -q \
		tests/python/test_goldens.py tests/python/test_exactness.py tests/python/test_generation.py

sanitize:
	cmake -S . -B build/asan -DMOEFLUX_TESTS=ON -DMOEFLUX_SANITIZE=address,undefined
	cmake --build build/asan -j2
	ctest --test-dir build/asan --output-on-failure
	cmake -S . -B build/tsan -DMOEFLUX_TESTS=ON -DMOEFLUX_SANITIZE=thread
	cmake --build build/tsan -j2
	ctest --test-dir build/tsan --output-on-failure

hostile-asan:  ## damaged checkpoints against an AddressSanitizer and UBSan build of the module
	$(BIN)/pip install -q pytest hypothesis pybind11 scikit-build-core
	$(BIN)/pip install -q --no-build-isolation --no-deps --target build/asan-package --upgrade \
		-C build-dir=build/asan-module -C cmake.define.MOEFLUX_SANITIZE=address,undefined .
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 PYTHONPATH=build/asan-package \
		$(BIN)/python -m pytest -q tests/hostile

clean:
	rm -rf build $(VENV)
