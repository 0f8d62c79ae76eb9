#!/usr/bin/env bash
# A real single-node SLURM with a fake GPU, on loopback, without systemd, for the tests: as root, on
# Debian's packages slurmctld, slurmd, slurm-client and munge. Idempotent.
#   slurm.sh start | stop | status
# With ENFORCE=1, start makes a SLURM that kills a job which needs more memory than it asked for.
# The configuration is /etc/slurm/slurm.conf, the only place where `srun` inside a job finds it; one
# that is not ours is left alone.
set -euo pipefail

ETC=/etc/slurm
RUN=/var/tmp/mammo-sae-slurm # state, spool, logs, the GPU's device file
CPUS=8
MEMORY=64000 # MB to give out
MARK="# written by mammo-sae's tests"
HOST=$(hostname -s)
mkdir -p "$RUN"/{state,spool,log}

# A pid file speaks of a living daemon if that process has the daemon's name; a reused pid or a
# process that has ended and waits for its parent has not.
alive() {
  [ -s "$RUN/$1.pid" ] && tr '\0' ' ' <"/proc/$(cat "$RUN/$1.pid")/cmdline" 2>/dev/null | grep -q "$1"
}

# Start a daemon without the caller's files: whoever reads our output must not wait for it.
detached() {
  (
    for descriptor in /proc/"$BASHPID"/fd/*; do
      descriptor=${descriptor##*/}
      [ "$descriptor" -le 2 ] || eval "exec $descriptor>&-"
    done
    exec "$@" </dev/null >>"$RUN/log/start.log" 2>&1
  )
}

configure() {
  if [ -e "$ETC/slurm.conf" ] && ! grep -q "^$MARK" "$ETC/slurm.conf"; then
    echo "$ETC/slurm.conf belongs to another SLURM; run these tests on a machine without one" >&2
    exit 1
  fi
  mkdir -p "$ETC"
  # A GPU's file must be a character device; this one is /dev/null's.
  [ -c "$RUN/gpu0" ] || mknod -m 666 "$RUN/gpu0" c 1 3
  getent hosts "$HOST" >/dev/null || echo "127.0.0.1 $HOST" >>/etc/hosts
  cat >"$ETC/slurm.conf" <<EOF
$MARK
ClusterName=mammo-sae
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$RUN/state
SlurmdSpoolDir=$RUN/spool
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/slurmd.pid
SlurmctldLogFile=$RUN/log/slurmctld.log
SlurmdLogFile=$RUN/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/$([ -n "${ENFORCE:-}" ] && echo cgroup || echo none)
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
ReturnToService=2
JobRequeue=0
KillWait=2
# Finished jobs stay visible to squeue for so many seconds.
MinJobAge=3600
GresTypes=gpu
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEMORY Gres=gpu:fake:1 State=UNKNOWN
# A job of the partition urgent takes the place of one of the partition tests.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=tests Nodes=$HOST Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=$HOST MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
EOF
  # slurmd loads a cgroup plugin though none is used; this one starts without /sys/fs/cgroup too.
  echo 'CgroupPlugin=cgroup/v1' >"$ETC/cgroup.conf"
  [ -z "${ENFORCE:-}" ] || echo 'ConstrainRAMSpace=yes' >>"$ETC/cgroup.conf"
  printf 'AutoDetect=off\nName=gpu Type=fake File=%s\n' "$RUN/gpu0" >"$ETC/gres.conf"
}

start() {
  for command in slurmctld slurmd sbatch munged; do
    command -v "$command" >/dev/null || {
      echo "$command is missing: apt-get install slurmctld slurmd slurm-client munge" >&2
      exit 1
    }
  done
  configure
  if ! { munge -n | unmunge; } >/dev/null 2>&1; then
    [ -s /etc/munge/munge.key ] || mungekey --create
    chown -R munge:munge /etc/munge
    install -d -o munge -g munge -m 0755 /run/munge
    install -d -o munge -g munge -m 0700 /var/log/munge /var/lib/munge
    detached runuser -u munge -- munged
  fi
  # -c: forget the jobs and node states of an earlier life.
  alive slurmctld || detached slurmctld -c
  for _ in $(seq 100); do
    scontrol ping 2>/dev/null | grep -q 'is UP' && break
    sleep 0.1
  done
  alive slurmd || detached slurmd
  for _ in $(seq 100); do
    # A node says "idle" before its slurmd has registered: ask for the start time too.
    if [[ $(scontrol -o show node "$HOST" 2>/dev/null) =~ State=(IDLE|MIXED|ALLOCATED)\ .*SlurmdStartTime=[0-9] ]]; then
      return
    fi
    sleep 0.1
  done
  echo "SLURM did not come up:" >&2
  tail -n 5 "$RUN"/log/*.log >&2
  exit 1
}

# Only the two daemons started here and their configuration; munged serves the whole machine and stays.
stop() {
  scancel --user="$(id -un)" 2>/dev/null || true
  for daemon in slurmd slurmctld; do
    alive "$daemon" || continue
    kill "$(cat "$RUN/$daemon.pid")"
    for _ in $(seq 150); do
      alive "$daemon" || break
      sleep 0.1
    done
  done
  # With a configuration and no daemon, whoever asks SLURM anything waits for it.
  if grep -qs "^$MARK" "$ETC/slurm.conf"; then rm "$ETC"/{slurm,gres,cgroup}.conf; fi
}

# Two test runs may start at once.
exec 9>"$RUN/lock"
flock 9
case "${1:-}" in
  start) start ;;
  stop) stop ;;
  status) sinfo -N -o '%N %t %c %m %G' && squeue ;;
  *)
    echo "usage: $0 start | stop | status" >&2
    exit 2
    ;;
esac
