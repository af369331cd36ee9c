#!/usr/bin/env bash
# The .mm files of csrc/device/metal over the stand-in: all C++ tests, theirs among them, then every
# kernel against its oracle through Backend("metal"), then models with device="metal", two or three
# goldens of each family among them. With a sanitizer on one shape of each kernel (the shaders
# themselves are for tests/shaders/kernel_checks.sh) and models of one test file; with thread
# sanitizer, which is slow, one model that meets a fault or two.
#   plain    as they are
#   goldens  over the build of plain, the goldens of every family and form, and nothing else
#   address  address and undefined-behaviour sanitizer
#   thread   thread sanitizer
# Debian: clang-19, with sanitizers libclang-rt-19-dev. Further arguments go to pytest. KERNELS: see
# csrc/ops/cpu/kernels.cmake. CTEST: further arguments of ctest's.
set -euo pipefail
cd "$(dirname "$0")/../.."
flavour=$1
shift
python=$(${PYTHON:-python3} -c 'import sys; print(sys.executable)')
build=build/metal-$flavour sanitize= preload= warnings_are_errors=ON
own=tests/metal_standin kernels=tests/kernels
export MOEFLUX_GOLDENS=few
goldens=tests/python/test_gpu_goldens.py selection=()
by_file=(--dist loadfile --no-loadscope-reorder)  # goldens are counted in one process
models="tests/python/test_device_model.py tests/python/test_gpu_exactness.py $goldens"

case $flavour in
  plain) ;;
  goldens) build=build/metal-plain own= kernels= models=$goldens MOEFLUX_GOLDENS=all ;;
  address)
    sanitize=address,undefined runtime=libclang_rt.asan-x86_64.so
    models=tests/python/test_gpu_exactness.py by_file=()
    ;;
  thread)
    sanitize=thread runtime=libclang_rt.tsan-x86_64.so
    models= by_file=() selection=(-k "not (leaves_the_session or tried_again) or execution-6 or encoder-1")
    ;;
  *) echo "expected plain, goldens, address or thread, found $flavour" >&2; exit 2 ;;
esac
if [ -n "$sanitize" ]; then  # one compiler for all: the two bring sanitizers of their own
  export CXX=clang++-19
  kernels+=/test_kernels.py::test_exact_sizes_are_enough_and_one_element_less_is_refused
  warnings_are_errors=OFF  # the CPU kernels turn off warnings that are GCC's
  preload="$(clang++-19 -print-file-name=$runtime) $(clang++-19 -print-file-name=libstdc++.so.6)"
fi

# Clang's check for the use of a stack that has been left costs a factor of 25: every GPU thread has one.
export ASAN_OPTIONS=detect_stack_use_after_return=0
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1

cmake -S . -B $build -DMOEFLUX_METAL=STANDIN -DMOEFLUX_HOST_CHECKS=ON -DMOEFLUX_TESTS=ON -DMOEFLUX_PYTHON=ON \
  -DMOEFLUX_KERNELS="${KERNELS:-}" -DMOEFLUX_WERROR=$warnings_are_errors -DMOEFLUX_SANITIZE=$sanitize \
  -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF \
  -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$($python -m pybind11 --cmakedir)" >/dev/null
cmake --build $build -j2
if [ $flavour != goldens ]; then ctest --test-dir $build -j2 --output-on-failure ${CTEST:-}; fi

rm -rf $build/site && mkdir $build/site
cp -r python/moeflux $build/site/
cp $build/_core*.so $build/tests/metal_standin/libmetal_standin.so $build/site/moeflux/

# Leaks are Python's here; the device's own are counted by the stand-in.
env PYTHONPATH=$build/site:tests ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 \
  LD_PRELOAD="$preload" LD_LIBRARY_PATH=$build/site/moeflux \
  PYTHONDONTWRITEBYTECODE=1 MOEFLUX_EXPECT_STANDIN=1 MOEFLUX_TEST_DEVICES=metal \
  "$python" -m pytest -q -n 2 "${by_file[@]}" -p no:cacheprovider -p no:faulthandler -p metal_standin.standin \
  $own $kernels $models "${selection[@]}" "$@"
