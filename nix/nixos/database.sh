# shellcheck shell=sh
# database.sh REGISTRATION DIRECTORY: Nix's database of the paths in REGISTRATION (closureInfo's), for /nix/var/nix/db of a new disk.
set -eu
registration=$1 out=$2
state=$(mktemp -d)
HOME=$state NIX_REMOTE="local?root=$state" nix-store --load-db <"$registration"
mkdir "$out"
# Without the space that Nix reserves there, and without its locks.
cp "$state/nix/var/nix/db/db.sqlite" "$state/nix/var/nix/db/schema" "$out/"
chmod 755 "$out"
chmod 644 "$out"/*
chmod -R u+w "$state"
rm -rf "$state"
