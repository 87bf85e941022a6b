"""A Debian root file system out of locked packages: the same bytes on every machine.

The packages of `packages.lock` are unpacked, not installed: no script of theirs runs, no root is
needed, and no container registry. What their scripts would have done for a Python program is little
and is done here: links of the merged /usr, users, the database of packages that scanners read.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from axoloci.errors import InputError
from axoloci.io.files import sha256, whole_file

MIRROR = "http://deb.debian.org"  # what arrives is checked against the lock's SHA-256
SNAPSHOT = "https://snapshot.debian.org/archive"  # keeps what mirrors have replaced
SUITES = {"debian": "bookworm bookworm-updates", "debian-security": "bookworm-security"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Not needed to run a program; the copyright files stay.
LEFT_OUT = re.compile(
    r"usr/share/(doc/(?!.*/copyright$|[^/]*$)|(man|info|locale|lintian|bug|menu|doc-base|pixmaps"
    r"|applications|perl5)(/|$))"
)
MERGED = ("bin", "lib", "lib64", "sbin")  # folders that are links into /usr
USER, UID = "axoloci", 1000
WRITTEN = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    f"{USER}:x:{UID}:{UID}::/nonexistent:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n",
    "etc/group": f"root:x:0:\n{USER}:x:{UID}:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True, order=True)
class Package:
    """One Debian package, as a line of `packages.lock`."""

    name: str
    version: str
    sha256: str
    path: str  # below the mirror, the archive first: debian/pool/main/…

    @property
    def line(self) -> str:
        """The package as a line of the lock."""
        return f"{self.name} {self.version} sha256:{self.sha256} {self.path}"


class InputMovedError(InputError):
    """A locked input is not to be had any more; the message names it and its successor."""


def read_lock(path: Path) -> tuple[str, list[Package]]:
    """The time that a lock was made at (as in snapshot.debian.org's addresses), and its packages.

    Raises
    ------
    InputError
        A line is not `name version sha256:… path`.
    """
    when, packages = "", []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("# snapshot "):
            when = line.split()[-1]
        elif line and not line.startswith("#"):
            found = re.fullmatch(r"(\S+) (\S+) sha256:([0-9a-f]{64}) (\S+)", line)
            if found is None:
                raise InputError(f"{path}, line {number}: not `name version sha256:… path`")
            packages.append(Package(*found.groups()))
    return when, packages


def resolve(wanted: Path) -> list[Package]:
    """What the packages named in a file need today, by Debian's own apt, signatures checked.

    Parameters
    ----------
    wanted
        One name a line; a name after a minus is left out, whatever depends on it.

    Raises
    ------
    InputError
        apt or Debian's keys are missing, or the archive is not reachable.
    """
    if shutil.which("apt-get") is None or not KEYRING.exists():
        raise InputError(
            "Debian's apt-get and archive keys are needed to resolve packages: on Debian and "
            "Ubuntu, apt-get install debian-archive-keyring; elsewhere in a Debian container"
        )
    lines = [line.strip() for line in wanted.read_text(encoding="utf-8").splitlines()]
    names = [line for line in lines if line and not line.startswith(("#", "-"))]
    without = {line[1:] for line in lines if line.startswith("-")}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("sources", "lists/partial", "cache/archives/partial"):
            Path(folder, name).mkdir(parents=True)
        for archive, suites in SUITES.items():
            Path(folder, "sources", f"{archive}.sources").write_text(
                f"Types: deb\nURIs: {MIRROR}/{archive}\nSuites: {suites}\nComponents: main\n"
                f"Signed-By: {KEYRING}\n"
            )
        settings = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": f"{folder}/sources",
            "Dir::State": folder,
            "Dir::State::status": "/dev/null",
            "Dir::Cache": f"{folder}/cache",
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::ForceHash": "SHA256",
        }
        apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
        listed = ""
        for command in (["update"], ["install", "--yes", "--print-uris", *names]):
            done = subprocess.run([*apt, *command], capture_output=True, text=True)
            if done.returncode:
                raise InputError(f"apt-get {command[0]}: {done.stderr.strip()}")
            listed = done.stdout
    uri = re.compile(rf"^'{MIRROR}/(\S+)' ([^_\s]+)_(\S+)_\S+ \d+ SHA256:(\w+)$", re.MULTILINE)
    return sorted(
        Package(name, unquote(version), digest, unquote(path))
        for path, name, version, digest in uri.findall(listed)
        if name not in without
    )


def moved(locked: list[Package], newest: list[Package]) -> list[str]:
    """Packages whose version differs: "python3.11 3.11.2-6+deb12u6 → 3.11.2-6+deb12u9"."""
    before, after = ({p.name: p.version for p in packages} for packages in (locked, newest))
    return [
        f"{name} {before.get(name, '(none)')} → {after.get(name, '(none)')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def fetch(package: Package, when: str, folder: Path) -> Path:
    """The file of a package, downloaded unless it is there; only with the lock's checksum.

    Parameters
    ----------
    package
        As locked.
    when
        The lock's time, to ask snapshot.debian.org for what mirrors have replaced.
    folder
        Where downloads are kept.

    Raises
    ------
    InputMovedError
        Neither Debian's mirror nor its snapshots give this file.
    """
    target = folder / f"{package.sha256}.deb"
    if target.exists() and sha256(target) == package.sha256:
        return target
    archive, path = package.path.split("/", 1)
    reasons = []
    for address in (f"{MIRROR}/{archive}/", f"{SNAPSHOT}/{archive}/{when}/"):
        try:
            with urllib.request.urlopen(address + quote(path), timeout=60) as answer:
                content = answer.read()
        except OSError as error:
            reasons.append(f"{address}: {error}")
            continue
        if hashlib.sha256(content).hexdigest() == package.sha256:
            with whole_file(target) as temporary:
                temporary.write_bytes(content)
            return target
        reasons.append(f"{address}: other bytes than locked")
    raise InputMovedError(
        f"an input has moved: {package.name} {package.version} is not to be had "
        f"({'; '.join(reasons)})"
    )


def write_root(packages: dict[Package, Path], out: Path, epoch: int) -> None:
    """Unpack packages into one tar file, entries in order, all of root's and of one time.

    Parameters
    ----------
    packages
        Each package and its file.
    out
        The tar file.
    epoch
        Time of all entries, seconds since 1970.

    Raises
    ------
    InputError
        A file is no Debian package with a gzip or xz archive in it.
    """
    entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def add(name: str, kind: bytes, mode: int, content: bytes = b"", link: str = "") -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
        entry.mtime = epoch
        entries[name] = (entry, content)

    for name in MERGED:
        add(name, tarfile.SYMTYPE, 0o777, link=f"usr/{name}")
        add(f"usr/{name}", tarfile.DIRTYPE, 0o755)
    for package, file in sorted(packages.items()):
        control, data = _archives(file)
        about = {member.name.lstrip("./"): content for member, content in _members(control)}
        # as distroless images have it: scanners find the packages here
        add(f"var/lib/dpkg/status.d/{package.name}", tarfile.REGTYPE, 0o644, about["control"])
        for member, content in _members(data):
            name = _merged(member.name)
            if name and not LEFT_OUT.match(name):
                link = _merged(member.linkname) if member.islnk() else member.linkname
                # no set-user-id programs: nobody becomes root in a step's image
                add(name, member.type, member.mode & 0o1777, content, link)
    for name, text in WRITTEN.items():
        add(name, tarfile.REGTYPE, 0o644, text.encode())
    add("tmp", tarfile.DIRTYPE, 0o1777)
    add("usr/bin/python3", tarfile.SYMTYPE, 0o777, link="python3.11")
    for name in list(entries):  # parents that came with no package
        for parent in map(str, Path(name).parents):
            if parent != "." and parent not in entries:
                add(parent, tarfile.DIRTYPE, 0o755)
    with whole_file(out) as temporary, tarfile.open(temporary, "w") as tar:
        # by name, parents first; hard links after what they lead to
        for name in sorted(entries, key=lambda name: (entries[name][0].islnk(), name)):
            entry, content = entries[name]
            tar.addfile(entry, io.BytesIO(content))


def _archives(deb: Path) -> tuple[bytes, bytes]:
    """The two tar files in a Debian package, which is an `ar` archive: control and data."""
    content = deb.read_bytes()
    found, at = {}, 8
    if content[:8] != b"!<arch>\n":
        raise InputError(f"{deb}: is not a Debian package")
    while at < len(content):
        name = content[at : at + 16].decode().strip().rstrip("/")
        size = int(content[at + 48 : at + 58])
        found[name.split(".tar")[0]] = content[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return found["control"], found["data"]


def _members(archive: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Entries of a compressed tar file, each with its content."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                yield member, file.read() if file else b""
    except tarfile.ReadError as error:
        raise InputError(f"a Debian package is packed by other than gzip or xz: {error}") from error


def _merged(name: str) -> str:
    """A path without a leading `./`, and below /usr where Debian's merged /usr has it."""
    name = name.removeprefix("./").strip("/")
    if name == ".":
        return ""
    return f"usr/{name}" if name.split("/")[0] in MERGED else name
