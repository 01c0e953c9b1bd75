"""What may be in a system when it runs, as far as derivations tell before anything is built: all that its derivations name, but what
only builds something (`nativeBuildInputs`, headers, manuals, compilers). That is more than will be there.

    nix derivation show --recursive SYSTEM | runtime.py SYSTEM PATTERN…

Fails with the way to each name that matches a pattern.
"""

import json
import re
import sys

ONLY_BUILDS = {"nativeBuildInputs", "propagatedNativeBuildInputs", "depsBuildBuild", "depsBuildTarget", "nativeCheckInputs", "nativeInstallCheckInputs", "checkInputs", "stdenv"}
NO_PROGRAM = {"dev", "man", "doc", "info", "devdoc", "devman"}


def named(derivation):
    """All text of a derivation but that about tools."""
    env = dict(derivation["env"])
    structured = json.loads(env.pop("__json", "{}")) | derivation.get("structuredAttrs", {})
    parts = {key: value for key, value in (env | structured).items() if key not in ONLY_BUILDS}
    return json.dumps([parts, derivation["args"]])


def reached(derivations, top):
    """Each derivation on the way down from `top`, with the one above it."""
    above, todo = {top: None}, [top]
    while todo:
        name = todo.pop()
        text = named(derivations[name])
        for needed, wanted in derivations[name]["inputDrvs"].items():
            outputs = wanted["outputs"] if isinstance(wanted, dict) else wanted
            paths = [derivations[needed]["outputs"][out].get("path") for out in outputs if out not in NO_PROGRAM]
            if needed not in above and any(path is None or path in text for path in paths):
                above[needed] = name
                todo.append(needed)
    return above


def way(above, name):
    while name:
        yield re.sub(r"^.*/[a-z0-9]{32}-|\.drv$", "", name)
        name = above[name]


shown = json.load(sys.stdin)
above = reached(shown.get("derivations", shown), sys.argv[1])
print(f"{len(above)} derivations that what runs may come from")
bad = [" ← ".join(way(above, name)) for name in above for pattern in sys.argv[2:] if re.search(pattern, name.split("/")[-1][33:])]
sys.exit("\n".join(bad) or None)
