#!/usr/bin/env bash
# Makes a Debian machine with Rust ready to build, test and demonstrate this project. Idempotent; well under a second
# when nothing is to do. Installs system packages only where a command is missing; everything else goes below
# $DVN_CACHE (see lib.sh). Two runs at once wait for each other.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tools/lib.sh
. ./lib.sh

vhost_device_vsock=0.3.0   # vsock for QEMU without a kernel module on the host
suite=trixie               # bookworm's Nix (2.8) and virtiofsd (of QEMU 7.2, in C) are too old

# 1. System packages, by a command or file that each brings.
declare -A package=(
  [qemu-system-x86_64]=qemu-system-x86 [qemu-system-aarch64]=qemu-system-arm [ssh]=openssh-client [setpriv]=util-linux
  [flock]=util-linux [mke2fs]=e2fsprogs [xz]=xz-utils [zstd]=zstd [lz4]=lz4 [jq]=jq [gcc]=gcc
  [readelf]=binutils [make]=make [git]=git [shellcheck]=shellcheck
  [/etc/ssl/certs/ca-certificates.crt]=ca-certificates
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

# 2. Rust: the guest's agent is a static program for both architectures.
command -v cargo >/dev/null ||
  die "cargo is missing; install Rust 1.89 or newer (with rustup: it also brings the guest's targets)"
sysroot=$(rustc --print sysroot)
targets=() components=()
for target in x86_64-unknown-linux-musl aarch64-unknown-linux-musl; do
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

# 3. Helper programs, below the cache.
toolset=$(toolset)
complete() {
  [ -x "$toolset/bin/vhost-device-vsock" ] && [ -x "$toolset/bin/virtiofsd" ] && "$toolset/nix/nix" --version
} &>/dev/null
if complete; then exit; fi
mkdir -p "$DVN_CACHE/toolset"
exec 9>"$DVN_CACHE/toolset/lock"
flock 9
if complete; then exit; fi   # another run made it while we waited

work=$(mktemp -d "$DVN_CACHE/toolset/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/nix"

vsock=$DVN_CACHE/cargo/vhost-device-vsock-$vhost_device_vsock
if [ ! -x "$vsock/bin/vhost-device-vsock" ]; then
  say "building vhost-device-vsock $vhost_device_vsock (a minute or two)"
  # In a directory without a project, so that no configuration or target directory of ours takes part.
  (cd / && env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo install --quiet --locked --root "$work/cargo" \
    "vhost-device-vsock@$vhost_device_vsock" 9>&-)
  mkdir -p "$DVN_CACHE/cargo"
  rm -rf "$vsock"
  mv -T "$work/cargo" "$vsock"
fi
ln -s "$vsock/bin/vhost-device-vsock" "$work/bin/"

# Parts of Nix's closure that evaluating and building never use.
unused='^(perl|libperl|libdbd|libdbi|libwww|debconf|dpkg|tar$|bzip2|curl$|xz-utils|gcc-14-base|openssl-provider|libdb5'
unused+='|init-|mawk|libpam|login|passwd|uidmap|libcrypt|ucf|base-files|netbase|libacl|libattr1|libselinux|libkeyutils)'
prefix=$(./debian-prefix.sh --skip "$unused" --program usr/bin/nix --program usr/libexec/virtiofsd \
  tools "$suite" nix-bin virtiofsd)
ln -s "$prefix/root/usr/libexec/virtiofsd" "$work/bin/"
for program in "$prefix"/root/usr/bin/nix*; do
  cat >"$work/nix/$(basename "$program")" <<WRAPPER
#!/bin/sh
# Nix of Debian $suite as if alone on the machine: no configuration, caches or builders but those asked for. A local
# build may use /bin/sh.
export NIX_CONF_DIR=/var/empty NIX_USER_CONF_FILES= NIX_CACHE_HOME="\${NIX_CACHE_HOME:-$DVN_CACHE/nix-cache}"
export NIX_CONFIG="experimental-features = nix-command flakes
substituters =
builders =
flake-registry =
build-users-group =
sandbox = false
sandbox-paths = /bin/sh=$prefix/root/usr/bin/bash-static
\${NIX_CONFIG:-}"
exec "$prefix/root/usr/bin/$(basename "$program")" "\$@"
WRAPPER
  chmod 755 "$work/nix/$(basename "$program")"
done

chmod 755 "$work"
rm -rf "$toolset"   # there only if part of the cache was deleted
mv -T "$work" "$toolset"
trap - EXIT
complete || die "the helper programs in $toolset do not run; delete $DVN_CACHE and try again"
say "ready: $toolset"
