#!/usr/bin/env python3
"""uki.py STUB KERNEL INITRD CMDLINE OUT: one EFI program of a kernel, its initial RAM disk and its command line.

systemd's stub finds them as sections of itself. Sections are appended to a PE file here, for any architecture: the binutils of one
architecture do not know the EFI programs of another.
"""
import struct
import sys


def main(stub, kernel, initrd, cmdline, out):
    image = bytearray(open(stub, "rb").read())
    pe = struct.unpack_from("<I", image, 0x3C)[0]
    if image[pe:pe + 4] != b"PE\0\0":
        sys.exit(f"{stub} is no EFI program")
    count, = struct.unpack_from("<H", image, pe + 6)
    optional = pe + 24
    table = optional + struct.unpack_from("<H", image, pe + 20)[0]
    section_align, file_align = struct.unpack_from("<II", image, optional + 32)
    end, first = 0, len(image)
    for index in range(count):
        size, address, length, offset = struct.unpack_from("<IIII", image, table + 40 * index + 8)
        end = max(end, address + max(size, length))
        first = min(first, offset or first)
    # The kernel comes last: it is started where it lies, and may need more room than its file has.
    sections = [
        (b".osrel", b"ID=dvn-test\nNAME=test medium\nVERSION_ID=1\n"),
        (b".cmdline", cmdline.encode() + b"\0"),
        (b".initrd", open(initrd, "rb").read()),
        (b".linux", open(kernel, "rb").read()),
    ]
    if table + 40 * (count + len(sections)) > first:
        sys.exit(f"{stub} has no room for the headers of more sections")
    # No symbol table: its offset would be wrong now.
    struct.pack_into("<II", image, pe + 12, 0, 0)
    for name, data in sections:
        address = round_up(end, max(section_align, 0x1000))
        image += bytes(round_up(len(image), file_align) - len(image))
        header = (name, len(data), address, round_up(len(data), file_align), len(image), 0, 0, 0, 0, 0x40000040)
        struct.pack_into("<8sIIIIIIHHI", image, table + 40 * count, *header)
        image += data + bytes(round_up(len(data), file_align) - len(data))
        count += 1
        end = address + len(data)
    struct.pack_into("<H", image, pe + 6, count)
    struct.pack_into("<I", image, optional + 56, round_up(end, section_align))
    # No checksum: firmware does not ask for one.
    struct.pack_into("<I", image, optional + 64, 0)
    open(out, "wb").write(image)


def round_up(number, unit):
    return (number + unit - 1) // unit * unit


main(*sys.argv[1:])
