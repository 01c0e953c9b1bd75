# shellcheck shell=bash
# Debian packages, resolved and fetched by an apt whose state is a directory of our own: from the mirror that this machine
# itself uses, verified with Debian's keys, nothing installed. To be sourced by bash after lib.sh.
#
#   debian_apt SUITE PROGRAM ARGUMENT…       runs a program of apt on a system that has no package and knows this suite alone
#   debian_closure SUITE PACKAGE…            prints the packages and all that they depend on, each as `SUITE FILE.deb`
#   debian_list FILE COMMAND ARGUMENT…       has FILE hold what the command prints; with --anew before FILE also if it is there
#   debian_fetch LIST DIRECTORY              fetches what of such a list is not in the directory
#
# The caller sets `debian_state`, a directory that it removes afterwards, and `debian_arch`, Debian's name of an architecture.
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror this machine already uses; apt itself reads both formats of its sources. The archive without an update's or a
# security archive's suite comes first.
debian_mirror() {
  local codename
  if [ -n "${DVN_DEBIAN_MIRROR:-}" ]; then echo "$DVN_DEBIAN_MIRROR"; return; fi
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release; echo "${VERSION_CODENAME:-}")
  # shellcheck disable=SC2016  # apt's own placeholders
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v c="$codename" '($2 == c || $2 == "stable") && $3 == "main" && !seen { print $1; seen = 1 }'
}

# debian_index SUITE: has the index of a suite at hand.
debian_index() {
  local suite=$1 state=${debian_state:?}/apt-$1 mirror
  [ ! -d "$state" ] || return 0
  need apt-get apt
  [ -r "$debian_keyring" ] || die "no Debian archive keys here; install debian-archive-keyring"
  mirror=$(debian_mirror)
  [ -n "$mirror" ] ||
    die "apt's sources name no Debian archive with the component 'main'; set DVN_DEBIAN_MIRROR to one"
  mkdir -p "$state"/{lists/partial,archives/partial}
  : >"$state/status"   # an empty system: a closure comes out complete
  echo "deb [signed-by=$debian_keyring] $mirror $suite main" >"$state/sources.list"
  # Hooks of the system's configuration, which keeps its proxies: containers' images clean the system's cache with them.
  printf '#clear %s;\n' APT::Update::{Pre-Invoke,Post-Invoke,Post-Invoke-Success} DPkg::Post-Invoke >"$state/apt.conf"
  debian_apt "$suite" apt-get update >&2 ||
    die "the index of Debian $suite cannot be had from $mirror (apt says why above)"
}

debian_apt() {
  local suite=$1 state=${debian_state:?}/apt-$1
  debian_index "$suite"
  "$2" -qq --config-file="$state/apt.conf" \
    -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
    -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives" -o APT::Sandbox::User="$(id -un)" \
    -o APT::Architecture="${debian_arch:?}" -o APT::Architectures="$debian_arch" \
    -o APT::Install-Recommends=false -o APT::Update::Error-Mode=any -o Acquire::Languages=none -o Acquire::Retries=3 \
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
    -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false "${@:3}"
}

debian_closure() {
  local suite=$1 uris
  shift
  debian_index "$suite"   # not in the subshell of $(…), which is all that an error in it ends
  uris=$(debian_apt "$suite" apt-get --print-uris install "$@") ||
    die "Debian $suite has no set of packages for: $* (apt says why above). In a suite that moves, such as sid, this passes: try again later"
  awk -v suite="$suite" '{ print suite, $2 }' <<<"$uris"
}

debian_list() {
  local anew='' list
  if [ "$1" = --anew ]; then anew=1; shift; fi
  list=$1
  shift
  if [ -z "$anew" ] && [ -e "$list" ]; then return; fi
  mkdir -p "$debian_state" "$(dirname "$list")"
  "$@" >"$debian_state/list"
  [ -s "$debian_state/list" ] || die "apt has resolved no package"
  mv "$debian_state/list" "$list"
}

debian_fetch() {
  local list=$1 directory=$2 suite file name version
  local -A wanted=()
  while read -r suite file; do
    [ ! -e "$directory/$file" ] || continue
    name=${file%%_*} version=${file#*_} version=${version%_*}
    wanted[$suite]+=" $name=${version//%3a/:}"
  done <"$list"
  rm -rf "$debian_state/fetched"
  mkdir -p "$debian_state/fetched" "$directory"
  for suite in "${!wanted[@]}"; do
    say "fetching $(wc -w <<<"${wanted[$suite]}") packages of Debian $suite"
    # shellcheck disable=SC2086  # a list of words
    (cd "$debian_state/fetched" && debian_apt "$suite" apt-get download ${wanted[$suite]} >&2) || return
  done
  find "$debian_state/fetched" -name '*.deb' -exec mv -t "$directory" {} +
}
