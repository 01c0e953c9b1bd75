"""Packs the base guest: a tar of its system image, and its initial RAM disk.

The image holds packages of a Nix store elsewhere than in /nix/store. A store path's name appears in many files: as a
program's loader and library path, in scripts, in symbolic links. Each appearance is replaced by one of the same length, so no
file changes its layout. Only paths of the closure are replaced; "/nix/store" by itself stays, because Nix means the guest's
own store by it.

A Mac's store may be on a file system that does not tell case, where Nix appends a "case hack" to the second of two names
which differ in nothing else. The archives get the true names. Nothing here is unpacked on the way, as such a disk could
not hold it.

Run with the closure of a Linux system, on any Unix.
"""

import argparse
import io
import json
import lzma
import os
import re
import stat
import subprocess
import sys
import tarfile

OLD = b"/nix/store/"
NEW = b"/usr/store/"
assert len(OLD) == len(NEW)

CASE_HACK = re.compile(r"~nix~case~hack~\d+$")


class Refusal(Exception):
    """What is asked for cannot be packed; the message says why."""


def relocator(store_paths):
    """A function that replaces all references to these store paths in bytes."""
    names = {os.path.basename(path)[:32].encode() for path in store_paths}
    reference = re.compile(re.escape(OLD) + rb"([0-9a-z]{32})(?=-)")

    def replace(match):
        return NEW + match[1] if match[1] in names else match[0]

    return lambda content: reference.sub(replace, content)


def true_name(name):
    """A file's name without Nix's case hack."""
    return CASE_HACK.sub("", name)


class Image:
    """A tar archive in which everything belongs to root and is as old as everything else."""

    def __init__(self, file):
        # The pax format: names and links of any length.
        self.tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)
        self.seen = {}

    def _add(self, path, kind, mode, content=b"", target=""):
        path = path.strip("/")
        if path in self.seen:
            if self.seen[path] == kind == tarfile.DIRTYPE:
                return
            raise Refusal(f"/{path} is in the image twice")
        parent = os.path.dirname(path)
        if parent and parent not in self.seen:
            self._add(parent, tarfile.DIRTYPE, 0o755)
        if parent and self.seen[parent] != tarfile.DIRTYPE:
            raise Refusal(f"/{path} is below /{parent}, which is no directory")
        self.seen[path] = kind
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.linkname, entry.mtime = kind, mode, target, 1
        entry.uname = entry.gname = "root"
        entry.size = len(content)
        self.tar.addfile(entry, io.BytesIO(content))

    def directory(self, path, mode=0o755):
        self._add(path, tarfile.DIRTYPE, mode)

    def link(self, path, target):
        self._add(path, tarfile.SYMTYPE, 0o777, target=target)

    def file(self, path, content, mode=0o644):
        self._add(path, tarfile.REGTYPE, mode, content)

    def close(self):
        self.tar.close()


def add_store_path(image, path, relocate, root=""):
    """A store path, at its new place. `root` is what the file system's root is called here, for tests."""
    where = NEW.decode() + "/".join(true_name(part) for part in path[len(OLD) :].split("/"))
    here = root + path
    found = os.lstat(here)
    if stat.S_ISLNK(found.st_mode):
        image.link(where, os.fsdecode(relocate(os.fsencode(os.readlink(here)))))
    elif stat.S_ISDIR(found.st_mode):
        image.directory(where)
        for name in sorted(os.listdir(here)):
            add_store_path(image, f"{path}/{name}", relocate, root)
    elif stat.S_ISREG(found.st_mode):
        with open(here, "rb") as file:
            image.file(where, relocate(file.read()), 0o555 if found.st_mode & 0o111 else 0o444)
    else:
        raise Refusal(f"{path} is neither file, directory nor link")


def pack_image(store_paths, layout, out, root=""):
    """Writes the system image."""
    for path in store_paths:
        if not path.startswith(OLD.decode()):
            raise Refusal(f"{path} is not in {OLD.decode()}: other stores cannot be packed")
    relocate = relocator(store_paths)
    image = Image(out)
    for path in sorted(layout):
        entry = layout[path]
        match entry:
            case {"directory": mode}:
                image.directory(path, int(mode, 8))
            case {"link": target}:
                image.link(path, relocate(target.encode()).decode())
            case {"text": text, "mode": mode}:
                image.file(path, relocate(text.encode()), int(mode, 8))
            case {"files": names}:
                image.file(path, b"".join(read(root + name).rstrip(b"\n") + b"\n" for name in names))
            case _:
                raise Refusal(f"the layout has something unknown at {path}: {entry}")
    for path in sorted(store_paths):
        add_store_path(image, path, relocate, root)
    image.close()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def module_name(path):
    return re.sub(r"\.ko(\.\w+)?$", "", os.path.basename(path)).replace("-", "_")


def order_modules(wanted, dependencies, builtin):
    """The files of the wanted modules and of all that they need, those that are needed first.

    A wanted name that ends in `?` may be missing.
    """
    files = {module_name(file): file for file in dependencies}
    ordered = []

    def add(file):
        if file in ordered:
            return
        # modules.dep names the nearest first, so what they need comes from the end.
        for needed in reversed(dependencies[file]):
            add(needed)
        ordered.append(file)

    for name in wanted:
        if (plain := name.rstrip("?")) in files:
            add(files[plain])
        elif plain not in builtin and plain == name:
            raise Refusal(f"the kernel has no module {name}, neither as a file nor built in")
    return ordered


def unpacked(path):
    content = read(path)
    if path.endswith(".xz"):
        return lzma.decompress(content)
    if path.endswith(".zst"):
        return subprocess.run(["zstd", "-dc", path], check=True, stdout=subprocess.PIPE).stdout
    if not path.endswith(".ko"):
        raise Refusal(f"{path}: unknown compression")
    return content


def pack_initrd(agent, modules, wanted, out):
    """Writes the initial RAM disk, not compressed, so that a boot payload can follow it."""
    trees = [entry.path for entry in os.scandir(os.path.join(modules, "lib/modules")) if entry.is_dir()]
    if len(trees) != 1:
        raise Refusal(f"{modules} should have modules of one kernel, and has {len(trees)}")
    (tree,) = trees
    lines = read(os.path.join(tree, "modules.dep")).decode().splitlines()
    dependencies = {file: needed.split() for file, needed in (line.split(":", 1) for line in lines)}
    builtin = {module_name(line) for line in read(os.path.join(tree, "modules.builtin")).decode().splitlines()}
    ordered = order_modules(wanted, dependencies, builtin)

    archive = Cpio(out)
    # Where the console's driver is a module, PID 1 starts without open files, and Rust's runtime needs this to open some.
    archive.add("dev", 0o40755)
    archive.add("dev/null", 0o20666, device=(1, 3))
    archive.add("mods", 0o40755)
    for file in ordered:
        archive.add(f"mods/{module_name(file)}.ko", 0o100644, unpacked(os.path.join(tree, file)))
    archive.add("mods/list", 0o100644, "".join(f"{module_name(file)}.ko\n" for file in ordered).encode())
    archive.add("init", 0o100755, read(agent))
    archive.add("TRAILER!!!", 0)


class Cpio:
    """An archive in the "newc" format, everything in it root's."""

    def __init__(self, file):
        self.file = file
        self.count = 0

    def add(self, name, mode, content=b"", device=(0, 0)):
        self.count += 1
        fields = [self.count, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0]
        head = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name.encode() + b"\0"
        for part in (head, content):
            self.file.write(part + bytes(-len(part) % 4))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    image = kinds.add_parser("image")
    image.add_argument("--closure", required=True, help="file with the store paths, one a line")
    image.add_argument("--layout", required=True, help="JSON, see layout.nix")
    image.add_argument("--root", default="", help="where the store's root is; for tests")
    initrd = kinds.add_parser("initrd")
    initrd.add_argument("--agent", required=True)
    initrd.add_argument("--modules", required=True, help="prefix with lib/modules")
    initrd.add_argument("--want", required=True, help="names of modules")
    for kind in (image, initrd):
        kind.add_argument("--out", required=True)
    given = parser.parse_args()
    with open(given.out, "wb") as out:
        if given.kind == "image":
            pack_image(read(given.closure).decode().split(), json.loads(read(given.layout)), out, given.root)
        else:
            pack_initrd(given.agent, given.modules, given.want.split(), out)


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(f"pack: {refusal}")
