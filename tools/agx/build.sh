#!/usr/bin/env bash
# Builds Mesa's compiler for Apple GPUs (AGX: M1, M2) on Debian 12, as root: OpenCL SPIR-V -> machine code. No GPU.
#   tools/agx/build.sh [DIR]   -> DIR/asahi_clc; DIR is build/agx. Some 12 minutes on two cores, 1 GB. Nothing where it is there.
# Mesa is Debian 13's source package, from the mirror of this machine's apt; the rest is Debian 12's, meson from PyPI.
set -euo pipefail
version=25.0.7-2+deb13u1
dir=$(mkdir -p "${1:-build/agx}" && cd "${1:-build/agx}" && pwd)
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends llvm-15-dev libclang-15-dev libclang-cpp15-dev clang-15 llvm-spirv-15 libllvmspirvlib-15-dev \
  libclc-15-dev libclc-15 spirv-tools libdrm-dev zlib1g-dev libzstd-dev libexpat1-dev libelf-dev bison flex pkg-config \
  dpkg-dev python3-venv g++ >/dev/null
[ "$(cat "$dir/version" 2>/dev/null)" != "$version" ] || exit 0

mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | sort -u | head -n 1)
printf 'deb-src %s trixie main\n' "$mirror" >"$dir/apt/sources.list"
cat >"$dir/apt/apt.conf" <<END
Dir::Etc::sourcelist "$dir/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$dir/apt/lists";
Dir::Cache "$dir/apt/cache";
END
cd "$dir"
export APT_CONFIG=$dir/apt/apt.conf
apt-get update -qq
rm -rf mesa-*
apt-get source -qq mesa=$version
unset APT_CONFIG
python3 -m venv venv
venv/bin/pip install -q meson ninja mako pyyaml packaging
printf "[binaries]\nllvm-config = '/usr/bin/llvm-config-15'\n" >native.ini  # a newer one may be here
export PATH=$dir/venv/bin:$PATH
meson setup --native-file native.ini mesa-*/build mesa-*/ -Dbuildtype=release -Dvulkan-drivers=asahi -Dgallium-drivers= -Dplatforms= \
  -Dglx=disabled -Degl=disabled -Dgbm=disabled -Dopengl=false -Dllvm=enabled -Dmesa-clc=enabled \
  -Dprecomp-compiler=enabled -Dtools=asahi,drm-shim
ninja -C mesa-*/build src/asahi/clc/asahi_clc
cp mesa-*/build/src/asahi/clc/asahi_clc .
rm -rf mesa* venv apt native.ini
echo "$version" >version
