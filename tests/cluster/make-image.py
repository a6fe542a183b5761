#!/usr/bin/env python3
"""make-image.py ROOTFS NAME:TAG OUT.tar [COMMAND...]: packs a folder as an image of one layer, for `ctr images import`."""
import hashlib
import io
import json
import os
import platform
import sys
import tarfile

if len(sys.argv) < 4:
    sys.exit(__doc__)
rootfs, name, out, command = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
OCI = "application/vnd.oci.image."
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def roots(entry):
    """An entry that is root's, and the same whenever it is made."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as archive:
    for entry in sorted(os.listdir(rootfs)):
        archive.add(os.path.join(rootfs, entry), entry, filter=roots)
blobs = {}


def blob(content, kind, **more):
    digest = hashlib.sha256(content).hexdigest()
    blobs[digest] = content
    return {"mediaType": OCI + kind, "digest": "sha256:" + digest, "size": len(content), **more}


def document(content):
    return json.dumps(content).encode()


layer = blob(layer.getvalue(), "layer.v1.tar")
config = blob(document({
    "architecture": ARCHITECTURES[platform.machine()],
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    "config": {"Cmd": command or ["/bin/sh"], "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]},
}), "config.v1+json")
names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}
manifest = blob(document({
    "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": [layer],
}), "manifest.v1+json", annotations=names)
with tarfile.open(out, "w") as archive:
    def put(path, content):
        entry = tarfile.TarInfo(path)
        entry.size = len(content)
        archive.addfile(roots(entry), io.BytesIO(content))

    put("oci-layout", document({"imageLayoutVersion": "1.0.0"}))
    put("index.json", document({"schemaVersion": 2, "manifests": [manifest]}))
    for digest, content in blobs.items():
        put("blobs/sha256/" + digest, content)
