#!/usr/bin/env bash
# A Slurm cluster of one node, this machine, with accounting: for tests, as root.
#
#   slurm.sh start DIR [MEMORY_MB]   start it, all of its state under DIR (a short path: it holds
#                                    sockets); then use it by SLURM_CONF=DIR/slurm.conf
#   slurm.sh stop DIR                end it, and only it
#
# Packages (make system): slurm-wlm slurmdbd munge mariadb-server. It has keys, ports, a database and
# control groups of its own, so that it meets no other: the groups are named after the node, the node
# after DIR. What another cluster left in groups of the same name would keep jobs from starting.
# Memory is limited by cgroups where this machine lets us, so that the kernel kills a process of a
# job; else the accounting kills the whole job within seconds.
set -euo pipefail
action=$1 dir=$(mkdir -p "$2" && cd "$2" && pwd) memory=${3:-8000}
node=$(basename "$dir" | tr --complement --delete '[:alnum:]')
groups=/sys/fs/cgroup/memory
export SLURM_CONF=$dir/slurm.conf

wait_for() { # until a command succeeds
    for _ in $(seq 120); do
        "$@" >>"$dir/log/start.log" 2>&1 && return
        sleep 0.25
    done
    echo "slurm.sh: no answer from: $* (see $dir/log)" >&2
    exit 1
}

node_is_idle() { sinfo --noheader --format=%T | grep -qx idle; }

stop() {
    for name in slurmd slurmctld slurmdbd db munged; do
        [ -s "$dir/$name.pid" ] || continue
        process=$(cat "$dir/$name.pid")
        kill "$process" 2>/dev/null || true
        for _ in $(seq 80); do
            kill -0 "$process" 2>/dev/null || break
            sleep 0.25
        done
    done
    find "$groups/slurm_$node" -depth -type d -exec rmdir {} + 2>/dev/null || true
}

start() {
    host=$(hostname -s)
    mkdir -p "$dir"/{state,spool,log}
    chmod 755 "$dir"
    read -r ctld slurmd dbd < <(python3 -c '
import socket
free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in free))')

    probe=$groups/axoloci-probe
    if mkdir "$probe" 2>/dev/null && rmdir "$probe"; then
        task=task/cgroup params=UsePss
        cat >"$dir/cgroup.conf" <<CONF
CgroupPlugin=cgroup/v1
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
CONF
    else
        task=task/none params=UsePss,OverMemoryKill
    fi

    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$ctld
SlurmdPort=$slurmd
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=$task
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=1,sched_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PropagateResourceLimits=NONE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=$params
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass=$dir/munge.socket
AccountingStoragePort=$dbd
NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$(env -u OMP_NUM_THREADS nproc) RealMemory=$memory State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    cat >"$dir/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$dbd
SlurmUser=root
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
CONF
    chmod 600 "$dir/slurmdbd.conf"

    (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
    munged --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed"
    mariadb-install-db --no-defaults --user=root --datadir="$dir/db" \
        --auth-root-authentication-method=socket --skip-test-db >"$dir/log/install-db.log" 2>&1
    setsid mariadbd --no-defaults --user=root --datadir="$dir/db" --socket="$dir/db.socket" \
        --skip-networking --pid-file="$dir/db.pid" --innodb-buffer-pool-size=128M \
        --innodb-lock-wait-timeout=900 >"$dir/log/db.log" 2>&1 </dev/null &
    wait_for mariadb --no-defaults --socket="$dir/db.socket" --execute="select 1"
    MYSQL_UNIX_PORT=$dir/db.socket slurmdbd
    wait_for sacctmgr --noheader list cluster
    sacctmgr --immediate add cluster test >>"$dir/log/start.log" 2>&1 || true
    slurmctld
    slurmd -N "$node"
    wait_for node_is_idle
}

case $action in
    start) start ;;
    stop) stop ;;
    *)
        echo "usage: slurm.sh start|stop DIR" >&2
        exit 2
        ;;
esac
