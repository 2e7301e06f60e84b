#!/bin/sh
# Boot the Debian in a folder in a container: unshare --mount boot.sh FOLDER NAME
#
# The container shares the host's network. The host's own PID 1 is not asked for anything and may be any: the
# container gets a control group of its own in a hierarchy that is mounted here, for this process alone.
set -eu

tree=$1
# A run that was killed leaves its group behind.
group=/sys/fs/cgroup/$2.$$

mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "$group"
echo $$ >"$group/cgroup.procs"
# TERM is how the test asks for an orderly end: it goes to the container.
trap 'kill -TERM "$container"' TERM
setpriv --pdeathsig KILL -- systemd-nspawn --quiet --directory="$tree" --machine="$2" --boot \
    --register=no --keep-unit --console=read-only --kill-signal=SIGRTMIN+3 --resolv-conf=off --timezone=off &
container=$!
until wait "$container"; do
    if ! kill -0 "$container" 2>/dev/null; then break; fi
done
echo $$ >/sys/fs/cgroup/cgroup.procs
find "$group" -depth -type d -exec rmdir {} \;
