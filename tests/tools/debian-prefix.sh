#!/usr/bin/env bash
# Puts Debian packages, and all they need, into a directory of their own: no root, nothing installed, the system's apt
# state untouched. Prints that directory. docs/decisions/0006-debian-packages-in-a-private-prefix.md says why.
#
#   debian-prefix.sh [--only REGEX] [--skip REGEX] [--without GLOB]… [--program PATH]… NAME SUITE PACKAGE…
#
# --only REGEX     take of the closure only packages whose name matches
# --skip REGEX     leave out packages whose name matches (parts of the closure that are never used)
# --without GLOB   leave out files whose path matches, as tar's --exclude does
# --program PATH   an ELF program below root/, made to run from there with the prefix's own loader and libraries
#
# The result is $DVN_CACHE/debian/NAME-KEY/root, KEY a hash of the request and of this script: made once,
# elsewhere, and renamed into place, so that it is complete or absent.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
. "$(dirname "$0")/lib.sh"

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
[ $# -ge 3 ] || die "usage: debian-prefix.sh [--only REGEX] [--skip REGEX] [--without GLOB]… [--program PATH]… NAME SUITE PACKAGE…"
name=$1 suite=$2; shift 2

key=$({ printf '%s\0' "${request[@]}"; cat "$0"; } | sha256sum | cut -c1-12)
prefix=$DVN_CACHE/debian/$name-$key
if [ -d "$prefix" ]; then echo "$prefix"; exit; fi

need apt-get apt; need dpkg dpkg; need flock util-linux
[ -r /usr/share/keyrings/debian-archive-keyring.gpg ] ||
  die "no Debian archive keys here; install debian-archive-keyring"
mkdir -p "$DVN_CACHE/debian"
exec 8>"$DVN_CACHE/debian/$name-$key.lock"
flock 8
if [ -d "$prefix" ]; then echo "$prefix"; exit; fi   # another run made it while we waited

# The mirror this machine already uses; apt itself reads both formats of its sources.
mirror() {
  local codename
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release; echo "${VERSION_CODENAME:-}")
  # shellcheck disable=SC2016  # apt's own placeholders
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v c="$codename" '($2 == c || $2 == "stable") && $3 == "main" && !seen { print $1; seen = 1 }'
}
mirror=${DVN_DEBIAN_MIRROR:-$(mirror)}
[ -n "$mirror" ] ||
  die "apt's sources name no Debian archive with the component 'main'; set DVN_DEBIAN_MIRROR to one"

work=$(mktemp -d "$DVN_CACHE/debian/.$name.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/apt/{lists/partial,archives/partial} "$work/root"
: >"$work/apt/status"   # an empty system: the closure comes out complete
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/apt/sources.list"
# Hooks of the system's configuration, which keeps its proxies: containers' images clean the system's cache with them.
printf '#clear %s;\n' APT::Update::{Pre-Invoke,Post-Invoke,Post-Invoke-Success} DPkg::Post-Invoke >"$work/apt/apt.conf"
apt=(apt-get -qq --config-file="$work/apt/apt.conf"
  -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
  -o Dir::State="$work/apt" -o Dir::State::lists="$work/apt/lists" -o Dir::State::status="$work/apt/status"
  -o Dir::Cache="$work/apt" -o Dir::Cache::archives="$work/apt/archives" -o APT::Sandbox::User="$(id -un)"
  -o APT::Install-Recommends=false -o Acquire::Languages=none -o Acquire::Retries=3
  -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
  -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)

say "fetching $* from Debian $suite"
"${apt[@]}" update >&2
uris=$("${apt[@]}" --print-uris install "$@" ${programs:+patchelf})
mapfile -t packages < <(awk '{ sub(/_.*/, "", $2); print $2 }' <<<"$uris" | grep -E "$only|^patchelf\$" | grep -vE "$skip")
(cd "$work/apt/archives" && "${apt[@]}" download "${packages[@]}" >&2)
for deb in "$work"/apt/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -p --no-same-owner -C "$work/root" "${without[@]}"
done
rm -rf "$work/apt"
find "$work/root" -type f -perm /6000 -exec chmod a-s {} +   # no set-uid programs in somebody's cache

if [ ${#programs[@]} -gt 0 ]; then
  # The paths written into the programs are those after the rename.
  loader=$(cd "$work/root" && find . -name 'ld-linux-*.so.*' -printf '%P\n' | head -1)
  libraries=$(cd "$work/root" && find . -name '*.so*' -printf '%h\n' | sort -u | sed 's/^\.//')
  # shellcheck disable=SC2001  # at the start of every line
  here=$(sed "s|^|$work/root|" <<<"$libraries" | paste -sd:)
  # shellcheck disable=SC2001
  there=$(sed "s|^|$prefix/root|" <<<"$libraries" | paste -sd:)
  for program in "${programs[@]}"; do
    # DT_RPATH, not DT_RUNPATH: it must hold for the libraries' own dependencies too.
    "$work/root/$loader" --library-path "$here" "$work/root/usr/bin/patchelf" \
      --set-interpreter "$prefix/root/$loader" --force-rpath --set-rpath "$there" "$work/root/$program"
  done
fi

chmod 755 "$work"
mv -T "$work" "$prefix"
trap - EXIT
echo "$prefix"
