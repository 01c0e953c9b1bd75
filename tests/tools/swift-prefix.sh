#!/usr/bin/env bash
# The Swift compiler and its static runtime, of Debian trixie, in a directory of their own: with them the Swift half of
# the program is built and tested on Linux. Prints the path of swiftc. Idempotent; see debian-prefix.sh.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tests/tools/lib.sh
. ./lib.sh

suite=trixie   # the first Debian whose archive has Swift; what it builds here runs on Debian 12

# Swift's package depends on what its debugger and its package manager need. The compiler needs these alone.
compiler='swiftlang|libswiftlang|libc6|libstdc\+\+6|libgcc-s1|libuuid1|zlib1g|libzstd1|libtinfo6|libncurses6|libsqlite3-0'
# Left out: debugger, editor support, package manager, C compiler, linkers, and Swift for microcontrollers.
unused=(
  './usr/share' './etc' './usr/sbin' '*/gconv' '*/swift/embedded' '*/FrameworkABIBaseline' '*/libclang_rt*'
  '*/lib/liblldb*' '*/lib/libsourcekit*' '*/lib/libLTO*' '*_InternalSwiftScan*' '*_InternalSwiftStaticMirror*'
  '*GenericMetadataBuilder*' '*/bin/lldb*' '*/bin/sourcekit*' '*/bin/clang*' '*/bin/*lld*' '*/bin/llvm-*' '*/bin/docc'
  '*/bin/swift-package' '*/bin/swift-format' '*/bin/swift-build-sdk-interfaces' '*/bin/wasm-ld' '*/swift-backtrace*'
)
arguments=(--only "^($compiler)\$")
for glob in "${unused[@]}"; do arguments+=(--without "$glob"); done
for program in swift-frontend swift-driver; do arguments+=(--program "usr/libexec/swift/bin/$program"); done
prefix=$(./debian-prefix.sh "${arguments[@]}" swift "$suite" swiftlang)
echo "$prefix/root/usr/libexec/swift/bin/swiftc"
