# shellcheck shell=bash
# The environment of tests, benchmarks and the demo. To be sourced by bash after tools/setup.sh; does no work.

# shellcheck source=tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The program finds its helpers on PATH: vhost-device-vsock and virtiofsd come from here, QEMU and setpriv from the
# system.
PATH=$(toolset)/bin:$PATH
export PATH

# A directory with nix, nix-build, nix-store, …: Nix 2.26 which leaves the system alone as long as NIX_REMOTE says
# `local?root=DIR`. Not on PATH, so that a Nix of the machine's own stays what it is.
DVN_TEST_NIX=$(toolset)/nix
export DVN_TEST_NIX

# guests ARCH…: builds the test guests and exports their bundles' directories: DVN_TEST_BUNDLE_x86_64, …, and the first
# one as DVN_TEST_BUNDLE.
guests() {
  local arch bundle
  unset DVN_TEST_BUNDLE
  for arch; do
    bundle=$("$(dirname "${BASH_SOURCE[0]}")/../tests/guest/build.sh" --arch "$arch" | tail -n 1) || return
    export "DVN_TEST_BUNDLE_$arch=$bundle" DVN_TEST_BUNDLE="${DVN_TEST_BUNDLE:-$bundle}"
  done
}
