# shellcheck shell=bash
# What guests and media are made of: Debian's kernel, programs with their libraries, our agent. To be sourced by bash after
# tests/tools/lib.sh and tests/tools/debian.sh.
#
#   of_arch ARCH                         sets what has other names on each architecture
#   kernel_image SUITE                   prints the name of the kernel's package. Call `debian_index SUITE` before
#   package_files SUITE PACKAGE…         prints the packages without what they depend on, each as `SUITE FILE.deb`
#   build_agent ARCH                     builds the guest's agent, and prints its path
#   take_programs PATH…                  copies programs from $tree to the same place in $root, with the libraries that they load
#   take_modules TREE DIRECTORY NAME…    copies modules of the kernel; DIRECTORY/list has them in this order
of_arch() {
  # shellcheck disable=SC2034  # for the scripts that source this
  case $1 in
    x86_64)
      deb=amd64 triplet=x86_64-linux-gnu kernel_package=linux-image-cloud-amd64
      efi=X64 stub=linuxx64.efi.stub console=ttyS0
      ;;
    aarch64) # the cloud kernel has no power button
      deb=arm64 triplet=aarch64-linux-gnu kernel_package=linux-image-arm64
      efi=AA64 stub=linuxaa64.efi.stub console=ttyAMA0
      ;;
    *) die "--arch must be x86_64 or aarch64" ;;
  esac
  libs=usr/lib/$triplet
}

kernel_image() {
  local image
  image=$(debian_apt "$1" apt-cache show "$kernel_package" | sed -n 's/^Depends:.*\(linux-image-[^ ,]*\).*/\1/p' | head -n1)
  [ -n "$image" ] || die "$kernel_package of $1 names no kernel"
  echo "$image"
}

package_files() {
  debian_apt "$1" apt-get --print-uris download "${@:2}" | awk -v suite="$1" '{ print suite, $2 }'
}

build_agent() {
  local target=$1-unknown-linux-musl
  local repo
  repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  (cd "$repo" && cargo build --quiet -p darwin-vz-agent --profile agent --target "$target") >&2 ||
    die "the agent does not build; if the target is missing: rustup target add $target"
  echo "${CARGO_TARGET_DIR:-$repo/target}/$target/agent/darwin-vz-agent"
}

take_programs() {
  local file
  for file; do
    [ -e "${tree:?}/$file" ] || die "no package brought $file"
    mkdir -p "${root:?}/$(dirname "$file")" "$root/$libs"
    cp -L "$tree/$file" "$root/$file"
    libraries "$tree/$file"
  done
}

declare -A added=()
libraries() { # copies what a program loads, and what that loads
  local name from
  for name in $(readelf -d "$1" 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
    [ -z "${added[$name]:-}" ] || continue
    added[$name]=1
    from=$tree/$libs/$name
    [ -e "$from" ] || from=$tree/usr/lib/$name
    [ -e "$from" ] || die "$1 needs $name, which no package brought: see what $0 leaves out"
    cp -L "$from" "$root/$libs/$name"
    libraries "$from"
  done
}

take_modules() {
  local from=$1 to=$2 name file
  shift 2
  for name; do
    file=$(find "$from" \( -name "$name.ko" -o -name "$name.ko.*" \) | head -n1)
    [ -n "$file" ] || continue # built into this kernel, or not of this architecture
    decompress "$file" >"$to/$name.ko"
    echo "$name.ko" >>"$to/list"
  done
}

bytes() { od -An -v -t x1 -j $(($2)) -N "$3" "$1" | tr -d ' \n'; }
decompress() { # decompress FILE: by magic number. A size follows the compressed kernel, hence "trailing garbage"
  case $(bytes "$1" 0 4) in
    28b52ffd) zstd -qdc "$1" ;;
    02214c18) lz4 -qdc "$1" ;;
    fd377a58) xz -dc --single-stream "$1" ;;
    1f8b*) gzip -dcq "$1" || [ $? = 2 ] ;;
    *) cat "$1" ;;
  esac
}
