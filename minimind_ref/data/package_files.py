"""What a package file of a registry holds: wheels, source distributions, npm tarballs, Debian packages."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path


def read_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of every file in a wheel, sdist, npm tarball or .deb, sorted by name, gunzipped."""
    data = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    else:
        with tarfile.open(fileobj=io.BytesIO(_deb_data(data) if path.suffix == ".deb" else data)) as archive:
            files = {member.name: archive.extractfile(member) for member in archive if member.isreg()}
            members = {name: file.read() for name, file in files.items() if file}
    for name in sorted(members):
        content = members[name]
        yield name, gzip.decompress(content) if name.endswith((".gz", ".dz")) else content


def _deb_data(data: bytes) -> bytes:
    """Find data.tar.* in a .deb: an ar archive of 60-byte headers, members padded to even length."""
    position = 8
    while position < len(data):
        if data.startswith(b"data.tar", position):
            return data[position + 60 :]  # a tar archive says itself where it ends
        size = int(data[position + 48 : position + 58])
        position += 60 + size + size % 2
    raise ValueError("the .deb has no data.tar")
