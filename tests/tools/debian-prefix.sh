#!/usr/bin/env bash
# Puts Debian packages, and all they need, into a directory of their own: no root, nothing installed, the system's apt
# state untouched. Prints that directory. docs/decisions/0006-debian-packages-in-a-private-prefix.md says why.
#
#   debian-prefix.sh [--update] [--only REGEX] [--skip REGEX] [--without GLOB]… [--program PATH]… NAME SUITE PACKAGE…
#
# --only REGEX     take of the closure only packages whose name matches
# --skip REGEX     leave out packages whose name matches (parts of the closure that are never used)
# --without GLOB   leave out files whose path matches, as tar's --exclude does
# --program PATH   an ELF program below root/, made to run from there with the prefix's own loader and libraries
#
# --update         look for newer packages; otherwise the versions first found for this request stay
#
# The result is $DVN_CACHE/debian/NAME-KEY/root, KEY a hash of the request, of the packages' versions and of this script:
# made once, elsewhere, and renamed into place, so that it is complete or absent. No network is needed for one that is there.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=tests/tools/lib.sh
. "$here/lib.sh"
# shellcheck source=tests/tools/debian.sh
. "$here/debian.sh"

update=
if [ "${1:-}" = --update ]; then update=1; shift; fi
request=("$@")
only='' skip='^$' without=() programs=()
while [ $# -gt 0 ]; do
  case $1 in
    --only) only=$2; shift 2 ;;
    --skip) skip=$2; shift 2 ;;
    --without) without+=("--exclude=$2"); shift 2 ;;
    --program) programs+=("$2"); shift 2 ;;
    *) break ;;
  esac
done
[ $# -ge 3 ] || die "usage: debian-prefix.sh [--update] [--only REGEX] [--skip REGEX] [--without GLOB]… [--program PATH]… NAME SUITE PACKAGE…"
name=$1 suite=$2; shift 2

need dpkg dpkg; need flock util-linux
key() { { printf '%s\0' "${request[@]}"; cat "$here"/debian{,-prefix}.sh "$@"; } | sha256sum | cut -c1-12; }
list=$DVN_CACHE/packages/$name-$(key)
prefix() { echo "$DVN_CACHE/debian/$name-$(key "$list")"; }
there() { [ -e "$list" ] && [ -d "$(prefix)" ]; }
if [ -z "$update" ] && there; then prefix; exit; fi

mkdir -p "$DVN_CACHE/debian"
exec 8>"$DVN_CACHE/debian/$name.lock"
flock 8
if [ -z "$update" ] && there; then prefix; exit; fi   # another run made it while we waited

work=$(mktemp -d "$DVN_CACHE/debian/.$name.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{apt,archives,root}
# shellcheck disable=SC2034  # for debian.sh
debian_state=$work/apt debian_arch=$(dpkg --print-architecture)
resolve() {
  debian_closure "$suite" "$@" ${programs:+patchelf} | while read -r from file; do
    if [[ ${file%%_*} =~ $only|^patchelf$ ]] && ! [[ ${file%%_*} =~ $skip ]]; then echo "$from $file"; fi
  done
}
found=
[ ! -e "$list" ] || [ -n "$update" ] || found=1
debian_list ${update:+--anew} "$list" resolve "$@"
fetch() { debian_fetch "$list" "$work/archives"; }
if [ -n "$found" ] && ! fetch; then
  say "Debian $suite has other versions by now"
  debian_list --anew "$list" resolve "$@"
fi
fetch || die "packages of Debian $suite cannot be had (apt says why above)"
prefix=$(prefix)
if [ -d "$prefix" ]; then echo "$prefix"; exit; fi
while read -r _ file; do
  dpkg-deb --fsys-tarfile "$work/archives/$file" | tar -x -p --no-same-owner -C "$work/root" "${without[@]}"
done <"$list"
rm -rf "$work"/{apt,archives}
find "$work/root" -type f -perm /6000 -exec chmod a-s {} +   # no set-uid programs in somebody's cache

if [ ${#programs[@]} -gt 0 ]; then
  # The paths written into the programs are those after the rename.
  loader=$(cd "$work/root" && find . -name 'ld-linux-*.so.*' -type f -printf '%P\n' | head -1)
  libraries=$(cd "$work/root" && find . -name '*.so*' -printf '%h\n' | sort -u | sed 's/^\.//')
  # shellcheck disable=SC2001  # at the start of every line
  now=$(sed "s|^|$work/root|" <<<"$libraries" | paste -sd:)
  # shellcheck disable=SC2001
  later=$(sed "s|^|$prefix/root|" <<<"$libraries" | paste -sd:)
  patchelf() { "$work/root/$loader" --library-path "$now" "$work/root/usr/bin/patchelf" "$@"; }
  for program in "${programs[@]}"; do
    # DT_RPATH, not DT_RUNPATH: it must hold for the libraries' own dependencies too.
    patchelf --set-interpreter "$prefix/root/$loader" --force-rpath --set-rpath "$later" "$work/root/$program"
  done
  # For a library with a DT_RUNPATH of its own it does not hold. Such a path may name a directory of the system, as in Nix 2.8.
  find "$work/root" -name '*.so*' -type f | while read -r library; do
    case $(patchelf --print-rpath "$library" 2>/dev/null) in
      /*) patchelf --remove-rpath "$library" ;;
    esac
  done
fi

chmod 755 "$work"
mv -T "$work" "$prefix"
trap - EXIT
echo "$prefix"
