#!/bin/sh
# Apptainer on Debian 12, which does not package it: the program of Debian's unstable suite with a
# C library of its own, so that the system's stays as it is. Run as root, by system.sh.
set -eu
LIBC=/usr/lib/apptainer-libc
if command -v apptainer >/dev/null && apptainer --version >/dev/null; then
    apptainer --version
    exit
fi
if apt-cache show apptainer >/dev/null 2>&1; then
    apt-get install -q -y --no-install-recommends apptainer
    exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial" "$work/root"
for suite in trixie sid; do
    cat >"$work/sources/$suite.sources" <<SOURCE
Types: deb
URIs: http://deb.debian.org/debian
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCE
done
newer() { # apt-get with these two suites alone; the system's own lists are not touched
    apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User= "$@"
}
newer update
(cd "$work" && newer download apptainer/sid libc6/trixie)
apt-get install -q -y --no-install-recommends \
    fuse-overlayfs fuse2fs libseccomp2 libsqlite3-0 patchelf squashfs-tools squashfuse uidmap

dpkg-deb -x "$work"/apptainer_*.deb "$work/root"
dpkg-deb -x "$work"/libc6_*.deb "$work/libc"
mkdir -p "$LIBC" /var/lib/apptainer/mnt/session
cp -a "$work"/libc/usr/lib/x86_64-linux-gnu/*.so* "$LIBC"
cp -L /usr/lib/x86_64-linux-gnu/libseccomp.so.2 /usr/lib/x86_64-linux-gnu/libsqlite3.so.0 "$LIBC"
for program in usr/bin/apptainer usr/lib/x86_64-linux-gnu/apptainer/bin/starter; do
    patchelf --set-interpreter "$LIBC/ld-linux-x86-64.so.2" --set-rpath "$LIBC" \
        "$work/root/$program"
done
# Containers of root get no capability that root itself may lack here.
sed -i 's/^root default capabilities = .*/root default capabilities = no/' \
    "$work/root/etc/apptainer/apptainer.conf"
if [ ! -d /run/systemd/system ]; then # else it could limit no container's memory
    sed -i 's/^systemd cgroups = .*/systemd cgroups = no/' "$work/root/etc/apptainer/apptainer.conf"
fi
cp -a "$work"/root/etc/apptainer /etc/
cp -a "$work"/root/usr/bin/. /usr/bin/
cp -a "$work"/root/usr/lib/. /usr/lib/
[ -e /usr/bin/singularity ] || ln -s apptainer /usr/bin/singularity
apptainer --version
