#!/usr/bin/env bash
# Makes a Debian machine with Rust ready to build and demonstrate this project, with the argument `checks` to check it,
# and with `tests` to test it, too. Idempotent; well under a second when nothing is to do. Installs system packages only where a command is missing; everything else goes below
# $DVN_CACHE (see lib.sh). Two runs at once wait for each other.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tests/tools/lib.sh
. ./lib.sh

vhost_device_vsock=0.3.0   # vsock for QEMU without a kernel module on the host
nixfmt_rs=0.4.0            # these two for `make check-nix`
deadnix=1.3.1
suite=trixie               # bookworm's Nix (2.8) and virtiofsd (of QEMU 7.2, in C) are too old
clients=(bookworm trixie sid)   # whose Nix is tried against the doors; sid's moves, see tests/e2e/clients.rs

# 1. System packages, by a command or file that each brings.
declare -A package=(
  [qemu-system-x86_64]=qemu-system-x86 [qemu-system-aarch64]=qemu-system-arm [ssh]=openssh-client [setpriv]=util-linux
  [g++]=g++ [flock]=util-linux [mke2fs]=e2fsprogs [xz]=xz-utils [zstd]=zstd [lz4]=lz4 [jq]=jq [gcc]=gcc
  [readelf]=binutils [make]=make [git]=git [shellcheck]=shellcheck [python3]=python3-minimal
  [/etc/ssl/certs/ca-certificates.crt]=ca-certificates
  [/usr/share/OVMF/OVMF_CODE_4M.fd]=ovmf [/usr/share/AAVMF/AAVMF_CODE.fd]=qemu-efi-aarch64 [mformat]=mtools [xorriso]=xorriso
  [/usr/share/keyrings/debian-archive-keyring.gpg]=debian-archive-keyring [/usr/include/stdio.h]=libc6-dev
)
PATH=$PATH:/usr/sbin:/sbin   # mke2fs, for those who are not root
missing=()
for thing in "${!package[@]}"; do
  case $thing in
    /*) [ -e "$thing" ] || missing+=("${package[$thing]}") ;;
    *) command -v "$thing" >/dev/null || missing+=("${package[$thing]}") ;;
  esac
done
# A module and no command, for tests/tools/schemathesis.sh.
[ $# = 0 ] || python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
install_packages() {
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  local as_root=()
  command -v apt-get >/dev/null ||
    die "this machine has no apt; install what these Debian packages contain: ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null ||
      die "packages are missing; run as root: apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o Acquire::Retries=3
    -o DPkg::Lock::Timeout=300)
  "${as_root[@]}" update >&2
  "${as_root[@]}" install --yes --no-install-recommends "${missing[@]}" >&2 </dev/null
}
[ ${#missing[@]} = 0 ] || install_packages

# 2. Rust: the guest's agent is a static program for both architectures; what macOS compiles is checked here, too.
command -v cargo >/dev/null ||
  die "cargo is missing; install Rust 1.89 or newer (with rustup: it also brings the guest's targets)"
sysroot=$(rustc --print sysroot)
targets=() components=()
for target in {x86_64,aarch64}-unknown-linux-musl aarch64-apple-darwin; do
  [ -d "$sysroot/lib/rustlib/$target/lib" ] || targets+=("$target")
done
for component in clippy rustfmt; do
  [ -x "$sysroot/bin/cargo-${component/rustfmt/fmt}" ] || components+=("$component")
done
if [ $((${#targets[@]} + ${#components[@]})) != 0 ]; then
  command -v rustup >/dev/null ||
    die "the Rust in $sysroot lacks ${targets[*]} ${components[*]}, and rustup, which adds them, is missing"
  say "adding ${targets[*]} ${components[*]} to Rust"
  [ ${#targets[@]} = 0 ] || rustup --quiet target add "${targets[@]}"
  [ ${#components[@]} = 0 ] || rustup --quiet component add "${components[@]}"
fi

# 3. Programs below the cache, in sets: what running the program takes, what checking it takes besides, and what its tests do.

# make_set NAME: makes the set of that name unless it is there, elsewhere first, and renamed into place when complete.
make_set() {
  local set
  set=$("$1")
  if "complete_$1" "$set" &>/dev/null; then return; fi
  mkdir -p "$(dirname "$set")"
  exec 9>"$(dirname "$set")/lock"
  flock 9
  if "complete_$1" "$set" &>/dev/null; then return; fi   # another run made it while we waited
  work=$(mktemp -d "$(dirname "$set")/.new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/bin"
  "fill_$1"
  chmod 755 "$work"
  rm -rf "$set"   # there only if part of the cache was deleted
  mv -T "$work" "$set"
  trap - EXIT
  flock -u 9
  "complete_$1" "$set" >/dev/null || die "the programs in $set do not run; delete $DVN_CACHE and try again"
  say "ready: $set"
}

# from_crates CRATE VERSION PROGRAM: a program of a crate, built once and linked into the set.
from_crates() {
  local made=$DVN_CACHE/cargo/$1-$2
  if [ ! -x "$made/bin/$3" ]; then
    say "building $1 $2 (a minute or two)"
    # In a directory without a project, so that no configuration or target directory of ours takes part.
    (cd / && env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo install --quiet --locked --root "$work/cargo-$1" "$1@$2" 9>&-)
    mkdir -p "$DVN_CACHE/cargo"
    rm -rf "$made"
    mv -T "$work/cargo-$1" "$made"
  fi
  ln -s "$made/bin/$3" "$work/bin/"
}

# Parts of Nix's closure that evaluating and building never use.
unused='^(perl|libperl|libdbd|libdbi|libwww|debconf|dpkg|tar$|bzip2|curl$|xz-utils|gcc-[0-9]*-base|openssl-provider|libdb5'
unused+='|init-|mawk|libpam|login|passwd|uidmap|libcrypt|ucf|base-files|netbase|libacl|libattr1|libselinux|libkeyutils)'

# nix_programs ROOT DIRECTORY: what runs the Nix below ROOT as if alone on the machine.
nix_programs() {
  local program
  mkdir -p "$2"
  for program in "$1"/usr/bin/nix*; do
    cat >"$2/$(basename "$program")" <<WRAPPER
#!/bin/sh
# Nix of Debian as if alone on the machine: no configuration, caches or builders but those asked for. A local build may
# use /bin/sh. Old versions look for the program that reaches builders in the system.
export NIX_CONF_DIR=/var/empty NIX_USER_CONF_FILES= NIX_CACHE_HOME="\${NIX_CACHE_HOME:-$DVN_CACHE/nix-cache}"
export NIX_CONFIG="experimental-features = nix-command flakes
substituters =
builders =
build-hook = $1/usr/libexec/nix/build-remote
flake-registry =
build-users-group =
sandbox = false
sandbox-paths = /bin/sh=$1/usr/bin/bash-static
\${NIX_CONFIG:-}"
exec "$program" "\$@"
WRAPPER
    chmod 755 "$2/$(basename "$program")"
  done
}

complete_toolset() {
  [ -x "$1/bin/vhost-device-vsock" ] && [ -x "$1/bin/virtiofsd" ] && "$1/nix/nix" --version
}
fill_toolset() {
  from_crates vhost-device-vsock "$vhost_device_vsock" vhost-device-vsock
  local prefix
  prefix=$(./debian-prefix.sh --skip "$unused" --program usr/bin/nix --program usr/libexec/virtiofsd \
    tools "$suite" nix-bin virtiofsd)
  ln -s "$prefix/root/usr/libexec/virtiofsd" "$work/bin/"
  nix_programs "$prefix/root" "$work/nix"
}

complete_checkset() {
  [ -x "$1/bin/nixfmt" ] && [ -x "$1/bin/deadnix" ] && "$1/swift/swiftc" --version
}
fill_checkset() {
  from_crates nixfmt_rs "$nixfmt_rs" nixfmt
  from_crates deadnix "$deadnix" deadnix
  local swiftc
  swiftc=$(./swift-prefix.sh)
  ln -s "$(dirname "$swiftc")" "$work/swift"
}

# Nix as hosts have it, old and new, by the suite of Debian that it is from.
complete_clientset() {
  local old
  for old in "${clients[@]}"; do "$1/$old/nix" --version || return; done
}
fill_clientset() {
  local from prefix
  for from in "${clients[@]}"; do
    prefix=$(./debian-prefix.sh --skip "$unused" --program usr/bin/nix "nix-$from" "$from" nix-bin bash-static)
    nix_programs "$prefix/root" "$work/$from"
  done
}

make_set toolset
case ${1:-} in
  '') ;;
  checks) make_set checkset ;;
  tests) make_set checkset; make_set clientset ;;
  *) die "unknown argument $1" ;;
esac
