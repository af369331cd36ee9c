#!/usr/bin/env bash
# Every kernel against its oracle on the host device made for tests (MOEFLUX_HOST_CHECKS):
#   plain    guard pages; several schedules must give the same bits
#   address  address and undefined-behaviour sanitizer
#   thread   thread sanitizer: each GPU thread is a thread of its own to it
# Uses the build folders of `make cpp-test` and `make sanitize`. Further arguments go to pytest.
# Other tests, shaders or build folder: TESTS, SHADERS, BUILD.
set -euo pipefail
cd "$(dirname "$0")/../.."
flavour=$1
shift
python=$(${PYTHON:-python3} -c 'import sys; print(sys.executable)')  # not a shim: LD_PRELOAD

tests=tests/kernels
case $flavour in
  plain) build=build/cpp sanitize= tests="$tests tests/shaders/test_schedules.py" ;;
  address)
    build=build/address sanitize=address,undefined library=libasan.so
    tests="$tests tests/shaders/test_hostile_scalars.py"
    ;;
  thread) build=build/thread sanitize=thread library=libtsan.so ;;
  *) echo "expected plain, address or thread, found $flavour" >&2; exit 2 ;;
esac
build=${BUILD:-$build}
preload=
if [ -n "$sanitize" ]; then
  # libstdc++, too: the sanitizer looks for __cxa_throw before Python loads any C++.
  preload="$(${CXX:-c++} -print-file-name=$library) $(${CXX:-c++} -print-file-name=libstdc++.so.6)"
fi

cmake -S . -B "$build" -DMOEFLUX_TESTS=ON -DMOEFLUX_HOST_CHECKS=ON -DMOEFLUX_PYTHON=ON \
  -DMOEFLUX_SANITIZE=$sanitize -DMOEFLUX_SHADER_DIR="${SHADERS:-$PWD/shaders}" \
  -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF -DPython_EXECUTABLE="$python" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >/dev/null
cmake --build "$build" --target _core -j2
rm -rf "$build/site" && mkdir "$build/site"
cp -r python/moeflux "$build/site/"
cp "$build"/_core*.so "$build/site/moeflux/"

# One thread of OpenBLAS: its own are unknown to thread sanitizer. Leaks are Python's here; the
# device's own are tested in C++.
env PYTHONPATH="$build/site" LD_PRELOAD="$preload" PYTHONDONTWRITEBYTECODE=1 \
  MOEFLUX_EXPECT_CHECKED=1 OPENBLAS_NUM_THREADS=1 \
  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 \
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
  "$python" -m pytest -q -p no:cacheprovider -p no:faulthandler --capture=sys ${TESTS:-$tests} "$@"
