"""What a Mac must build, and what its guest is asked to build: docs/decisions/0014.

Reads `nix derivation show --recursive` of a whole system with the NixOS guest from stdin. An edge is an output that is needed; a
.drv which is needed as a file only is no edge, and the recipe is one.
"""

import json
import re
import sys

derivations = json.load(sys.stdin)
failures = []


def needed(root):
    """Everything that must be built, or fetched from a cache, before this can be built."""
    found, todo = set(), [root]
    while todo:
        drv = todo.pop()
        if drv not in found:
            found.add(drv)
            todo += derivations[drv]["inputDrvs"]
    return found


def called(part):
    return [drv for drv in derivations if part in drv]


def check(holds, message, found=()):
    if not holds:
        failures.append(f"{message}: {', '.join(sorted(found)[:5])}" if found else message)


(system,), (settings,) = called("-darwin-system-"), called("-darwin-vz-nix.toml.drv")
recipes = [path for path in derivations[settings]["inputSrcs"] if path.endswith(".drv")]
check(len(recipes) == 1, "the program's settings hold no recipe as a file, or more than one", recipes)

on_mac = needed(system)
check(settings in on_mac, "the system does not hold the program's settings")
ours = [drv for drv in on_mac if "darwin-vz" in drv and derivations[drv]["system"].endswith("-linux")]
check(not ours, "the Mac's system depends on Linux outputs of ours, which no cache has", ours)
(program,) = [drv for drv in on_mac if re.search(r"-darwin-vz-nix-[0-9.]+\.drv$", drv)]
build = derivations[program]["env"]
check("-apple-clang" in build["cargoBuildFlags"], "the program is not linked by Apple's clang, which alone finds its Swift")
swifts = [drv for drv in derivations[program]["inputDrvs"] if re.search(r"-swift-[^/]*\.drv$", drv)]
check(not swifts, "the program takes nixpkgs' Swift, which is older than Swift 6", swifts)
check(called("-darwin-vz-base-guest.drv")[0] in on_mac, "the Mac's system has no guest to begin with")

if len(recipes) == 1:
    in_guest = needed(recipes[0])
    check(len(in_guest) > 1000, f"only {len(in_guest)} derivations for a whole NixOS system")
    foreign = [drv for drv in in_guest if derivations[drv]["system"].endswith("-darwin")]
    check(not foreign, "the guest would have to build what only a Mac can", foreign)
    # One compiler, nixpkgs' own, which the cache has; a second is one for another target, which takes hours.
    compilers = [drv for drv in in_guest if re.search(r"-rustc-[0-9.]+\.drv$", drv)]
    check(len(compilers) <= 1, "the guest would have to build a compiler", compilers)
    print(f"  the Mac: {len(on_mac)} derivations; the recipe: {len(in_guest)}")

sys.exit("\n".join(failures) or None)
