#!/bin/sh
# Debian packages of the outside programs that tests compare with, the browser that looks at the
# report, and Slurm. Run as root: sudo make system
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends plink2 plink1.9 mrtrix3 gemma chromium \
    slurm-wlm slurmdbd munge mariadb-server shellcheck
