#!/usr/bin/env python3
"""Checks a program for Macs on any computer: check_macho.py PROGRAM [ENTITLEMENTS.plist]

A thin arm64 Mach-O whose oldest macOS is 14, whose libraries are all the system's, where every name that is left open
is one of the Swift half's, and whose signature is whole: each hash of it is computed anew. With a property list, the
signature must hold exactly those entitlements, in both of its forms.
"""
import hashlib
import plistlib
import struct
import sys
from pathlib import Path

ARM64 = 0x0100000C
OLDEST_MACOS = (14, 0)
# Load commands, without the bit that says «required».
SYMTAB, DYLIBS, SIGNATURE, BUILD_VERSION = 0x2, (0xC, 0x18, 0x1F), 0x1D, 0x32
# Slots of the signature.
CODE_DIRECTORY, REQUIREMENTS, ENTITLEMENTS, ENTITLEMENTS_DER = 0, 2, 5, 7
DYNAMIC_LOOKUP = 254
# As macOS has them; Swift's runtime is there since 10.14.4.
SYSTEM = ("/usr/lib/", "/System/Library/Frameworks/", "@rpath/libswift")
SWIFT_HALF = ("___swift_bridge__$", "_$s", "_swift_")


class Fault(Exception):
    """Something is wrong with the program."""


def must(condition, what):
    if not condition:
        raise Fault(what)


def text(data, start):
    return data[start : data.index(b"\0", start)].decode()


def commands(data):
    magic, cpu, _, kind, count, *_ = struct.unpack_from("<IiiIIIII", data)
    must(magic == 0xFEEDFACF, "not a thin 64-bit Mach-O")
    must(cpu == ARM64, f"not for arm64 but {cpu:#x}")
    must(kind == 2, f"not a program but type {kind}")
    at = 32
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, at)
        yield command & 0x7FFFFFFF, at
        at += size


def open_names(data, at):
    """Names that no library of the link gives: found when the program is loaded, or not."""
    symbols, count, strings, _ = struct.unpack_from("<IIII", data, at + 8)
    for index in range(count):
        name, kind, _, description, _ = struct.unpack_from("<IBBHQ", data, symbols + 16 * index)
        undefined = kind & 0xE0 == 0 and kind & 0x0E == 0 and kind & 1
        if undefined and description >> 8 == DYNAMIC_LOOKUP:
            yield text(data, strings + name)


def check_layout(data):
    found = {}
    for command, at in commands(data):
        if command in DYLIBS:
            library = text(data, at + struct.unpack_from("<I", data, at + 8)[0])
            must(library.startswith(SYSTEM), f"needs {library}, which a Mac does not have")
        found[command] = at
    must(BUILD_VERSION in found, "does not say which macOS it is for")
    platform, oldest = struct.unpack_from("<II", data, found[BUILD_VERSION] + 8)
    oldest = (oldest >> 16, oldest >> 8 & 0xFF)
    must(platform == 1, f"for platform {platform}, not macOS")
    must(oldest == OLDEST_MACOS, f"for macOS {oldest[0]}.{oldest[1]} and newer")
    left = list(open_names(data, found[SYMTAB])) if SYMTAB in found else []
    strangers = [name for name in left if not name.startswith(SWIFT_HALF)]
    must(not strangers, f"these names are nowhere: {' '.join(strangers)}")
    must(SIGNATURE in found, "is not signed, and no Mac with Apple silicon would start it")
    return len(left), struct.unpack_from("<II", data, found[SIGNATURE] + 8)


def blobs(data, start):
    magic, _, count = struct.unpack_from(">III", data, start)
    must(magic == 0xFADE0CC0, "the signature is no signature")
    for index in range(count):
        slot, offset = struct.unpack_from(">II", data, start + 12 + 8 * index)
        size = struct.unpack_from(">I", data, start + offset + 4)[0]
        yield slot, data[start + offset : start + offset + size]


def check_signature(data, start):
    parts = dict(blobs(data, start))
    directory = parts[CODE_DIRECTORY]
    _, _, _, flags, hashes, name, special, pages, limit, size, kind, _, page_bits = struct.unpack_from(
        ">IIIIIIIIIBBBB", directory
    )
    must((size, kind) == (32, 2), "the signature's hashes are not SHA-256")
    must(limit == start, f"the signature covers {limit} bytes of {start}")
    page = 1 << page_bits
    must(pages == -(-limit // page), "the signature lacks pages")

    def stated(index):
        return directory[hashes + 32 * index : hashes + 32 * (index + 1)]

    for index in range(pages):
        content = data[index * page : min((index + 1) * page, limit)]
        must(stated(index) == hashlib.sha256(content).digest(), f"page {index} is not the one that was signed")
    for slot in range(1, special + 1):
        expected = hashlib.sha256(parts[slot]).digest() if slot in parts else bytes(32)
        must(stated(-slot) == expected, f"the signature's part {slot} is not the one that was signed")
    for slot in (REQUIREMENTS, ENTITLEMENTS, ENTITLEMENTS_DER):
        must(slot not in parts or slot <= special, f"the signature does not cover its part {slot}")
    adhoc = "ad hoc" if flags & 2 else "with a certificate"
    return parts, f"{text(directory, name)}, signed {adhoc}, {pages} pages"


def check_entitlements(parts, path):
    wanted = plistlib.loads(Path(path).read_bytes())
    must(ENTITLEMENTS in parts, "the signature holds no entitlements")
    held = plistlib.loads(parts[ENTITLEMENTS][8:])
    must(held == wanted, f"the entitlements are {held}, not {wanted}")
    # macOS 12 and newer go by this form.
    must(ENTITLEMENTS_DER in parts, "the entitlements are there as text only")
    for key in wanted:
        must(key.encode() in parts[ENTITLEMENTS_DER], f"{key} is not in the entitlements' binary form")
    return ", ".join(sorted(held))


def main(program, entitlements=None):
    data = Path(program).read_bytes()
    left, (start, _) = check_layout(data)
    parts, signature = check_signature(data, start)
    print(f"{program}: {signature}; {left} names are the Swift half's")
    if entitlements:
        print(f"entitled to: {check_entitlements(parts, entitlements)}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Fault as fault:
        sys.exit(f"{sys.argv[1]}: {fault}")
