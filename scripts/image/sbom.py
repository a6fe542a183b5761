#!/usr/bin/env python3
"""sbom.py SOURCES PACKAGES PROGRAM...: what gardend's image is made of, as CycloneDX 1.6 JSON.

SOURCES   gardend's sources: the crates that its program is built from are those of Cargo.lock
PACKAGES  file of lines NAME VERSION: Debian packages of which there are files in the image
PROGRAM   a program built by Go, which tells its modules itself
"""
import json
import os
import subprocess
import sys
import time
import uuid


def told(*command, cwd=None):
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout


def component(kind, name, version, purl, **more):
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl, **more}


def crates(sources):
    """The crates that end up in gardend on this machine, and gardend itself."""
    host = next(line.split()[1] for line in told("rustc", "-vV", cwd=sources).splitlines() if line.startswith("host:"))
    metadata = json.loads(
        told("cargo", "metadata", "--locked", "--format-version=1", "--filter-platform", host, cwd=sources))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(id for id, package in packages.items() if package["name"] == "gardend")
    seen, waiting = set(), [root]
    while waiting:
        id = waiting.pop()
        if id in seen:
            continue
        seen.add(id)
        for dependency in nodes[id]["deps"]:
            # What tests and build scripts need is not in the program.
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    for id in seen:
        package = packages[id]
        license = [{"expression": package["license"].replace("/", " OR ")}] if package["license"] else []
        kind = "application" if id == root else "library"
        purl = f"pkg:cargo/{package['name']}@{package['version']}"
        yield component(kind, package["name"], package["version"], purl, licenses=license)


def modules(program):
    """The Go modules that a program says it is built from."""
    for line in told("go", "version", "-m", program).splitlines():
        fields = line.split("\t")
        # Stamped builds name their own module without a version; its dependencies come whole.
        if len(fields) > 3 and fields[1] in ("dep", "mod", "=>") and fields[3]:
            yield component("library", fields[2], fields[3], f"pkg:golang/{fields[2]}@{fields[3]}")


def packages(path):
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            name, version = line.split()
            yield component("library", name, version, f"pkg:deb/debian/{name}@{version}")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    found = {part["bom-ref"]: part for part in crates(sys.argv[1])}
    found.update((part["bom-ref"], part) for part in packages(sys.argv[2]))
    for program in sys.argv[3:]:
        found.update((part["bom-ref"], part) for part in modules(program))
    gardend = next(part for part in found.values() if part["name"] == "gardend")
    parts = [found[ref] for ref in sorted(found) if found[ref] is not gardend]
    made = int(os.environ["SOURCE_DATE_EPOCH"])
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": "urn:uuid:" + str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([gardend, parts], sort_keys=True))),
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made)),
            "component": gardend,
        },
        "components": parts,
    }
    json.dump(document, sys.stdout, indent=1)
    print()


main()
