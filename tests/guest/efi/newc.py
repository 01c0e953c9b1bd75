#!/usr/bin/env python3
"""newc.py DIRECTORY: a cpio archive ("newc") of a directory, as the kernel reads it, on stdout. All of it is root's, in a fixed order."""
import os
import stat
import sys


def entry(number, name, mode, data):
    header = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    text = b"070701" + b"".join(b"%08X" % field for field in header) + name + b"\0"
    return padded(text) + padded(data)


def padded(data):
    return data + bytes(-len(data) % 4)


def main(directory):
    names = []
    for parent, directories, files in os.walk(directory):
        names += [os.path.relpath(os.path.join(parent, name), directory) for name in directories + files]
    # A directory comes before what is in it.
    for number, name in enumerate(sorted(names), start=1):
        path = os.path.join(directory, name)
        mode = os.stat(path).st_mode
        data = b"" if stat.S_ISDIR(mode) else open(path, "rb").read()
        sys.stdout.buffer.write(entry(number, name.encode(), mode, data))
    sys.stdout.buffer.write(entry(0, b"TRAILER!!!", 0, b""))


main(*sys.argv[1:])
