# Sourced by run and full: packages, settings, a step.
export MOEFLUX_CI=1 DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

if command -v apt-get >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends g++ cmake make ninja-build python3-venv \
    doctest-dev git ccache clang-19 libclang-rt-19-dev lld-19 llvm-19 g++-aarch64-linux-gnu qemu-user-static >/dev/null
fi

# Ninja compiles tests beside the libraries that they are linked with, make one target after the other.
export CMAKE_GENERATOR=Ninja

# Steps compile the same sources with the same flags into builds of their own: each is compiled once,
# where compiler and CMake are the same, too.
export CXX=g++ PATH="$PWD/.venv/bin:$PATH"
export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_DIR=$PWD/build/ccache CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
export SKBUILD_CMAKE_DEFINE=MOEFLUX_WERROR=ON  # of the package, too: as the tests' builds

kernels_here() {  # whose kernels this machine runs (csrc/ops/cpu/select.cpp), for MOEFLUX_KERNELS
  local sets=portable name flags flag
  while read -r name flags; do
    for flag in $flags; do grep -qw "$flag" /proc/cpuinfo || continue 2; done
    sets+=";$name"
  done <<'END'
avx2 avx2 fma
avx2_vnni avx_vnni
avx512 avx512f avx512bw avx512vl avx512dq
avx512_vnni avx512f avx512_vnni
avx512_bf16 avx512_vnni avx512vbmi avx512_bf16
amx amx_tile amx_int8
END
  echo "$sets"
}

step() {  # a make target, and how long it took, with what it took of all processors
  local TIMEFORMAT="== make $*: %0R s, of processors %0U + %0S s"
  time make --no-print-directory "$@"
}
