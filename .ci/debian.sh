# Sourced by bare and container: a bare Debian 12 in a folder. Needs root and debootstrap.
# The mirror, apt's and pip's settings, proxies and PYTEST_ADDOPTS are those of this machine.

make_debian() {  # in $1, an empty folder
  local root=$1 mirror scheme folder
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
    awk '$2 == "bookworm" && !found++ {print $1}')
  for scheme in http https; do  # for debootstrap's own downloads
    eval "$(apt-config shell ${scheme}_proxy Acquire::$scheme::Proxy)"
  done
  env ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
    debootstrap --variant=minbase bookworm "$root" ${mirror:+"$mirror"} >/dev/null
  apt-config dump | grep '^Acquire::' >"$root/etc/apt/apt.conf.d/99host" || true
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  for folder in /proc /dev /sys; do mount --rbind $folder "$root$folder"; done
}

settings_of_pip() {  # of this machine, into the Debian in $1, and the files and folders that they name
  # (an index names files beside it): after packages, for one of them replaces the certificates.
  local root=$1 path parent
  { echo "[global]" && pip config list | sed -n "s/^global\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p"; } >"$root/etc/pip.conf"
  for path in $(pip config list | grep -o "[ '/]/[^ ']*" | sed 's,^[^/]*//*,/,'); do
    if [ -d "$path" ]; then
      parent=$(dirname "$path")
      [ "$(dirname "$parent")" = / ] || path=$parent  # never /opt as a whole: what is installed there stays inside
      mkdir -p "$root$path" && mount --bind -o ro "$path" "$root$path"
    elif [ -f "$path" ]; then
      mkdir -p "$root$(dirname "$path")" && cp -L "$path" "$root$path"
    fi
  done
}

environment=()
for name in $(compgen -e | grep -Ei '^(PIP_.*|PYTEST_ADDOPTS|(https?|no)_proxy)$' || true); do
  environment+=("$name=${!name}")
done
