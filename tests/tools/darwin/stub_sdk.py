#!/usr/bin/env python3
"""A pretended macOS SDK that holds link stubs and nothing else: stub_sdk.py LIBSYSTEM_TBD DIRECTORY

Apple's SDK may not be copied to Linux. For linking, names are enough: those of libSystem come with Zig, those of the
other libraries stand below, as many as the Rust half of this program mentions. A stub proves that we spell a name as
we did here, not that Apple's SDK has it.
"""
import os
import re
import sys

LIBRARIES = {
    "usr/lib/libiconv": ("/usr/lib/libiconv.2.dylib", ["iconv", "iconv_open", "iconv_close"]),
    "usr/lib/libobjc": ("/usr/lib/libobjc.A.dylib", ["objc_msgSend", "objc_retain", "objc_release"]),
    **{
        f"System/Library/Frameworks/{name}.framework/{name}": (
            f"/System/Library/Frameworks/{name}.framework/Versions/{version}/{name}",
            symbols,
        )
        for name, version, symbols in [
            ("CoreFoundation", "A", ["CFRelease", "CFStringCreateWithBytes"]),
            ("Foundation", "C", []),
            ("Security", "A", []),
            ("Virtualization", "A", ["VZErrorDomain"]),
        ]
    },
}
# What rustc's linker understands, which does not want to hear of newer ones.
KNOWN = {"x86_64-macos", "arm64-macos", "arm64e-macos"}


def plain_targets(match):
    targets = [target.strip() for target in match.group(1).split(",")]
    targets = [target for target in targets if target in KNOWN]
    if "arm64e-macos" in targets and "arm64-macos" not in targets:
        targets.append("arm64-macos")
    return "targets: [ " + ", ".join(targets or ["x86_64-macos"]) + " ]"


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main(libsystem, sdk):
    with open(libsystem, encoding="utf-8") as file:
        text = re.sub(r"targets:\s*\[([^\]]*)\]", plain_targets, file.read())
    for name in ["System", "c", "m", "pthread", "dl"]:
        write(f"{sdk}/usr/lib/lib{name}.tbd", text)
    for path, (install_name, symbols) in LIBRARIES.items():
        names = ", ".join("_" + symbol for symbol in symbols)
        exports = f"exports:\n  - targets: [ arm64-macos ]\n    symbols: [ {names} ]\n" if symbols else ""
        write(
            f"{sdk}/{path}.tbd",
            f"--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\ninstall-name: '{install_name}'\n{exports}...\n",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
