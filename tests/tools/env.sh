# shellcheck shell=bash
# The environment of tests, benchmarks and the demo. To be sourced by bash after tests/tools/setup.sh; does no work.

# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The program finds its helpers on PATH: vhost-device-vsock and virtiofsd come from here, QEMU and setpriv from the
# system. So do the linters of the Nix files, where setup.sh was asked for them.
PATH=$(toolset)/bin:$(checkset)/bin:$PATH
export PATH

# A directory with nix, nix-build, nix-store, …: Nix 2.26 which leaves the system alone as long as NIX_REMOTE says
# `local?root=DIR`. Not on PATH, so that a Nix of the machine's own stays what it is.
DVN_TEST_NIX=$(toolset)/nix
export DVN_TEST_NIX

# The same of older and newer versions, each in a directory named after its suite of Debian. There after `setup.sh tests`.
DVN_TEST_NIX_CLIENTS=$(clientset)
export DVN_TEST_NIX_CLIENTS

# with_swift: from now on cargo builds the backend `vz` too, for the stand-in of tests/virtualization-standin. What users run
# on Linux is built without: it would be tens of megabytes of no use to them.
with_swift() {
  # Not a path through a link: Swift looks for its parts beside the name by which it was called.
  DVN_SWIFT=$(readlink -f "$(checkset)/swift")/swiftc
  export DVN_SWIFT
}

# guests ARCH…: builds the test guests and exports their bundles' directories: DVN_TEST_BUNDLE_x86_64, …, and the first
# one as DVN_TEST_BUNDLE.
guests() {
  local arch bundle
  unset DVN_TEST_BUNDLE
  for arch; do
    bundle=$("$(dirname "${BASH_SOURCE[0]}")/../guest/build.sh" --arch "$arch" | tail -n 1) || return
    export "DVN_TEST_BUNDLE_$arch=$bundle" DVN_TEST_BUNDLE="${DVN_TEST_BUNDLE:-$bundle}"
  done
}

# medium ARCH: builds the ISO that machines boot by EFI in tests, and exports its path.
medium() {
  DVN_TEST_MEDIUM=$("$(dirname "${BASH_SOURCE[0]}")/../guest/iso.sh" --arch "$1" | tail -n 1) || return
  export DVN_TEST_MEDIUM
}

# installer ARCH: the same of the ISO that installs a system.
installer() {
  DVN_TEST_INSTALLER=$("$(dirname "${BASH_SOURCE[0]}")/../guest/iso.sh" --arch "$1" installer | tail -n 1) || return
  export DVN_TEST_INSTALLER
}
