#!/usr/bin/env python3
"""Packs folders as an image, one layer each, in an archive that `ctr images import` takes (OCI image layout).

The same folders give the same bytes, whoever packs them and when: owners are root, times are --created.
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
import time

OCI = "application/vnd.oci.image."
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="NAME:TAG that the image is found by")
    parser.add_argument("--layer", required=True, action="append", metavar="FOLDER", help="a layer; several times")
    parser.add_argument("--out", required=True, metavar="PATH", help="the archive")
    parser.add_argument("--created", type=int, default=0, metavar="SECONDS", help="when, since 1970")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="a label; several times")
    parser.add_argument("--entrypoint", metavar="PATH", help="the program, where a command gives arguments alone")
    parser.add_argument("command", nargs="*", help="what runs where nothing else is asked for")
    return parser.parse_args()


class Layout:
    """The blobs of an image, by their digests."""

    def __init__(self):
        self.blobs = {}

    def add(self, content, kind):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return {"mediaType": OCI + kind, "digest": digest, "size": len(content)}

    def add_document(self, content, kind):
        return self.add(json.dumps(content, sort_keys=True).encode(), kind)

    def write(self, path, index, created):
        with tarfile.open(path, "w") as archive:
            def put(name, content):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(content), created
                archive.addfile(entry, io.BytesIO(content))

            put("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            put("index.json", json.dumps(index, sort_keys=True).encode())
            for digest, content in sorted(self.blobs.items()):
                put("blobs/sha256/" + digest.removeprefix("sha256:"), content)


def tarred(folder, created):
    """A folder as a tar: in order, root's, of one time."""
    def plain(entry):
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = created
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        # A folder's entries are added in the order of their names.
        for name in sorted(os.listdir(folder)):
            archive.add(os.path.join(folder, name), name, filter=plain)
    return buffer.getvalue()


def main():
    told = options()
    layout, layers, contents = Layout(), [], []
    for folder in told.layer:
        tar = tarred(folder, told.created)
        contents.append("sha256:" + hashlib.sha256(tar).hexdigest())
        # Without a time of its own. Not zstd, which containerd 1.6 does not know in this form.
        layers.append(layout.add(gzip.compress(tar, 9, mtime=0), "layer.v1.tar+gzip"))
    labels = dict(label.split("=", 1) for label in told.label)
    ran = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Labels": labels}
    if told.entrypoint:
        ran["Entrypoint"] = [told.entrypoint]
    if told.command:
        ran["Cmd"] = told.command
    config = layout.add_document({
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(told.created)),
        "config": ran,
        "rootfs": {"type": "layers", "diff_ids": contents},
    }, "config.v1+json")
    manifest = layout.add_document({
        "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": layers,
    }, "manifest.v1+json")
    tag = told.name.rsplit(":", 1)[1]
    manifest["annotations"] = {"io.containerd.image.name": told.name, "org.opencontainers.image.ref.name": tag}
    layout.write(told.out, {"schemaVersion": 2, "manifests": [manifest]}, told.created)


main()
