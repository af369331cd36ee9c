# Sourced by run and full: packages, settings, a step.
export MOEFLUX_CI=1 DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

if command -v apt-get >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends g++ cmake make python3-venv doctest-dev git \
    clang-19 libclang-rt-19-dev lld-19 llvm-19 g++-aarch64-linux-gnu qemu-user-static >/dev/null
fi

step() {  # a make target, and how long it took
  local begin=$SECONDS
  make --no-print-directory "$@"
  echo "== make $*: $((SECONDS - begin)) s"
}
