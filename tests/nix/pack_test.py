"""nix/base-guest/pack.py: names, references, modules."""

import io
import os
import sys
import tarfile
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../nix/base-guest"))
import pack

A = "/nix/store/" + "a" * 32 + "-glibc"
B = "/nix/store/" + "b" * 32 + "-tool"
STRANGER = "/nix/store/" + "c" * 32 + "-elsewhere"


class Store:
    """A store in a directory of its own."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.root = self.directory.name

    def write(self, path, content=b"", mode=0o444):
        os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
        with open(self.root + path, "wb") as file:
            file.write(content)
        os.chmod(self.root + path, mode)

    def link(self, path, target):
        os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
        os.symlink(target, self.root + path)

    def packed(self, paths, layout):
        out = io.BytesIO()
        pack.pack_image(paths, layout, out, self.root)
        out.seek(0)
        return tarfile.open(fileobj=out)


class Image(unittest.TestCase):
    def setUp(self):
        self.store = Store()
        self.addCleanup(self.store.directory.cleanup)

    def test_references_to_the_closure_move_and_keep_their_length(self):
        content = f"\x7fELF {A}/lib/ld.so\0{STRANGER}/x\0/nix/store\0/nix/store/".encode()
        self.store.write(A + "/lib/ld.so", b"loader")
        self.store.write(B + "/bin/tool", content, 0o555)
        self.store.link(B + "/bin/loader", A + "/lib/ld.so")
        self.store.link(B + "/bin/same", "tool")
        tar = self.store.packed([A, B], {"/usr/bin/tool": {"link": B + "/bin/tool"}})
        moved = tar.extractfile("usr/store/" + os.path.basename(B) + "/bin/tool").read()
        self.assertEqual(len(moved), len(content))
        self.assertIn(A.replace("/nix", "/usr").encode(), moved)
        self.assertIn(STRANGER.encode(), moved, "a path that is not in the image stays what it is")
        self.assertTrue(moved.endswith(b"/nix/store\0/nix/store/"), "Nix's own store is not the image's")
        member = lambda name: tar.getmember("usr/store/" + os.path.basename(B) + "/bin/" + name)
        self.assertEqual(member("loader").linkname, A.replace("/nix", "/usr") + "/lib/ld.so")
        self.assertEqual(member("same").linkname, "tool")
        self.assertEqual(tar.getmember("usr/bin/tool").linkname, B.replace("/nix", "/usr") + "/bin/tool")

    def test_everything_is_roots_and_only_programs_can_be_run(self):
        self.store.write(B + "/bin/tool", b"x", 0o755)
        self.store.write(B + "/share/text", b"x", 0o644)
        tar = self.store.packed([B], {"/etc/shadow": {"text": "s", "mode": "0600"}, "/tmp": {"directory": "1777"}})
        for member in tar:
            self.assertEqual((member.uid, member.gid, member.mtime), (0, 0, 1), member.name)
        modes = {os.path.basename(m.name): m.mode for m in tar.getmembers()}
        self.assertEqual([modes[n] for n in ("tool", "text", "shadow", "tmp")], [0o555, 0o444, 0o600, 0o1777])

    def test_files_get_their_true_names(self):
        self.store.write(B + "/share/terminfo/A/x", b"upper")
        self.store.write(B + "/share/terminfo/a~nix~case~hack~1/x", b"lower")
        tar = self.store.packed([B], {})
        base = "usr/store/" + os.path.basename(B) + "/share/terminfo"
        self.assertEqual(tar.extractfile(base + "/A/x").read(), b"upper")
        self.assertEqual(tar.extractfile(base + "/a/x").read(), b"lower")
        self.assertNotIn("case~hack", "".join(tar.getnames()))

    def test_files_are_joined_line_by_line(self):
        self.store.write("/one.pem", b"1")
        self.store.write("/two.pem", b"2\n\n")
        tar = self.store.packed([], {"/etc/ca.crt": {"files": ["/one.pem", "/two.pem"]}})
        self.assertEqual(tar.extractfile("etc/ca.crt").read(), b"1\n2\n")

    def test_refusals(self):
        for paths, layout, why in [
            (["/opt/store/x"], {}, "not in /nix/store"),
            ([], {"/a": {"socket": ""}}, "unknown"),
            ([], {"/a": {"link": "b"}, "/a/b": {"text": "", "mode": "0644"}}, "no directory"),
            ([], {"/a": {"text": "", "mode": "0644"}, "a": {"text": "", "mode": "0644"}}, "twice"),
        ]:
            with self.assertRaisesRegex(pack.Refusal, why):
                self.store.packed(paths, layout)


class Modules(unittest.TestCase):
    DEPENDENCIES = {
        "kernel/fs/ext4/ext4.ko.xz": ["kernel/fs/jbd2/jbd2.ko.xz", "kernel/lib/crc16.ko.xz"],
        "kernel/fs/jbd2/jbd2.ko.xz": [],
        "kernel/lib/crc16.ko.xz": [],
        "kernel/net/vmw-vsock.ko": ["kernel/net/vsock.ko"],
        "kernel/net/vsock.ko": [],
    }

    def order(self, *wanted):
        files = pack.order_modules(wanted, self.DEPENDENCIES, {"virtio_pci"})
        return [pack.module_name(file) for file in files]

    def test_what_is_needed_comes_first_and_once(self):
        self.assertEqual(self.order("ext4", "crc16", "vmw_vsock"), ["crc16", "jbd2", "ext4", "vsock", "vmw_vsock"])

    def test_a_module_may_be_built_in_or_not_be_needed(self):
        self.assertEqual(self.order("virtio_pci", "gpio_keys?"), [])
        with self.assertRaisesRegex(pack.Refusal, "no module gpio_keys"):
            self.order("gpio_keys")


class Initrd(unittest.TestCase):
    def test_an_archive_that_cpio_reads(self):
        with tempfile.TemporaryDirectory() as directory:
            tree = os.path.join(directory, "lib/modules/6.0")
            os.makedirs(tree + "/kernel")
            for name, content in [
                ("modules.dep", "kernel/a.ko: kernel/b.ko\nkernel/b.ko:\n"),
                ("modules.builtin", ""),
                ("kernel/a.ko", "A"),
                ("kernel/b.ko", "BB"),
                ("../../../agent", "agent"),
            ]:
                with open(os.path.join(tree, name), "w", encoding="utf-8") as file:
                    file.write(content)
            out = io.BytesIO()
            pack.pack_initrd(directory + "/agent", directory, ["a"], out)
            entries, devices, rest = {}, {}, out.getvalue()
            self.assertEqual(len(rest) % 4, 0)
            while rest:
                fields = [int(rest[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
                name = rest[110 : 110 + fields[11] - 1].decode()
                start = 110 + fields[11] + -(110 + fields[11]) % 4
                devices[name] = tuple(fields[9:11])
                entries[name] = (fields[1], rest[start : start + fields[6]])
                rest = rest[start + fields[6] + -fields[6] % 4 :]
            self.assertEqual(entries["init"], (0o100755, b"agent"))
            self.assertEqual((entries["dev/null"][0], devices["dev/null"]), (0o20666, (1, 3)))
            self.assertEqual(entries["mods/list"][1], b"b.ko\na.ko\n")
            self.assertEqual(entries["mods/b.ko"], (0o100644, b"BB"))
            self.assertEqual(list(entries)[-1], "TRAILER!!!")


if __name__ == "__main__":
    unittest.main()
