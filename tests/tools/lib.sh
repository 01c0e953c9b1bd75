# shellcheck shell=bash
# What the scripts of this project share: where the cache is, how they speak. To be sourced by bash.

# Everything downloaded or built outside the source tree. Entries are named by content or version, so it may be deleted
# at any time and is never wrong after an update.
export DVN_CACHE=${DVN_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/darwin-vz-nix}
case $DVN_CACHE in
  /*) ;;
  *) echo "DVN_CACHE is '$DVN_CACHE', but must be an absolute path" >&2; exit 1 ;;
esac

# What setup.sh makes, by the versions of the scripts that make it: toolset/KEY/{bin,nix}, checkset/KEY/{bin,swift} and
# clientset/KEY/SUITE.
toolset() { in_cache toolset setup.sh debian.sh debian-prefix.sh; }
checkset() { in_cache checkset setup.sh debian.sh debian-prefix.sh swift-prefix.sh; }
clientset() { in_cache clientset setup.sh debian.sh debian-prefix.sh; }
in_cache() (
  cd "$(dirname "${BASH_SOURCE[0]}")" || exit
  echo "$DVN_CACHE/$1/$(cat "${@:2}" | sha256sum | cut -c1-12)"
)

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { say "$*"; exit 1; }

# need COMMAND PACKAGE: the command exists, or we say which Debian package has it.
need() { command -v "$1" >/dev/null || die "'$1' is missing; install the Debian package $2"; }
