#!/usr/bin/env python3
"""openapi-schemas.py OPENAPI FOLDER: a JSON schema for each kind, for kubeconform
(-schema-location 'FOLDER/{{.ResourceKind}}{{.KindSuffix}}.json'), from what an API server says of itself
(`kubectl get --raw /openapi/v2`), custom resources included. Fields that it does not name are refused.
"""
import json
import os
import sys

PREFIX = "#/definitions/"


def plain(value, references):
    """A schema without what only an API server understands; the definitions that it names are noted."""
    if isinstance(value, list):
        return [plain(one, references) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    if isinstance(value.get("$ref"), str):
        references.add(value["$ref"].removeprefix(PREFIX))
    kept = {key: plain(one, references) for key, one in value.items()
            if key != "format" and not key.startswith("x-kubernetes")}
    if isinstance(kept.get("properties"), dict):
        kept.setdefault("additionalProperties", False)
    return kept


def whole(name, definitions):
    """A definition with all that it leads to."""
    waiting, found = {name}, {}
    while waiting:
        one, references = waiting.pop(), set()
        found[one] = plain(definitions[one], references)
        waiting |= references - found.keys()
    return {"$ref": PREFIX + name, "definitions": found}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as told:
        definitions = json.load(told)["definitions"]
    os.makedirs(sys.argv[2], exist_ok=True)
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            parts = [kind["kind"].lower(), kind["group"].split(".")[0].lower(), kind["version"].lower()]
            path = os.path.join(sys.argv[2], "-".join(part for part in parts if part) + ".json")
            with open(path, "w", encoding="utf-8") as schema:
                json.dump(whole(name, definitions), schema)


main()
