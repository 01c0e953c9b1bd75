"""Whether all that one JSON document says is in another: that of the stand-ins in that of the real modules, which say more.

Versions in the names of store paths count for nothing.
"""

import json
import re
import sys

STORE_PATH = re.compile(r"/nix/store/(?:…|[0-9a-z]{32})-([^/\s]*)")


def plain(text):
    """Without hashes, versions and outputs' names."""
    return STORE_PATH.sub(lambda found: "/nix/store/" + re.split(r"-(?:[0-9]|bin$)", found[1])[0], text)


def missing(part, whole, at):
    if isinstance(part, dict) and isinstance(whole, dict):
        for key, value in part.items():
            if key in whole:
                yield from missing(value, whole[key], f"{at}.{key}")
            else:
                yield f"{at}.{key} is not there"
    elif isinstance(part, list) and isinstance(whole, list):
        for value in part:
            if not any(not list(missing(value, other, at)) for other in whole):
                yield f"{at} has no {json.dumps(value)}"
    elif at.endswith(".cmdline"):
        yield from missing(part.split(), whole.split(), at + " ")
    elif isinstance(part, str) and isinstance(whole, str):
        if plain(part) != plain(whole):
            yield f"{at} is {whole!r}, not {part!r}"
    elif part != whole or type(part) is not type(whole):
        yield f"{at} is {whole!r}, not {part!r}"


with open(sys.argv[1], encoding="utf-8") as part, open(sys.argv[2], encoding="utf-8") as whole:
    sys.exit("\n".join(missing(json.load(part), json.load(whole), "guest")) or None)
