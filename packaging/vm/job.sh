#!/bin/sh
# Process 1 of the machine from here on: what a system has that has started, and then the command.
# machine.py writes job, folder, modules and version before this.
cd /dev || exit
mkdir -p pts shm net /lib/modules
mount -t devpts -o ptmxmode=666 devpts pts
mount -t tmpfs shm shm
mknod -m 666 net/tun c 10 200 # who opens it loads the module
ln -s /proc/self/fd fd
ln -s fd/0 stdin
ln -s fd/1 stdout
ln -s fd/2 stderr
ln -sfn "$modules" "/lib/modules/$version"
ip link set lo up
output=$(echo vport*p1)
status=$(echo vport*p2)
cd "$folder" || exit
setsid sh "$job/command.sh" </dev/null >"/dev/$output" 2>&1
echo $? >"/dev/$status"
echo o >/proc/sysrq-trigger # off, whatever is left running
while :; do :; done # process 1 must not end before
