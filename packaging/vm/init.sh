#!/bin/sh
# Process 1 in the initramfs: this machine's files, read-only, below what is written in memory;
# then $job (on the kernel's command line, which becomes the environment) goes on in there.
busybox mkdir -p /below /memory /root
busybox modprobe -a virtio_pci virtio_console 9pnet_virtio 9p overlay
busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose files /below
busybox mount -t tmpfs -o size=90% memory /memory
busybox mkdir /memory/changes /memory/work
busybox mount -t overlay -o lowerdir=/below,upperdir=/memory/changes,workdir=/memory/work \
	files /root
# Before anything looks: what is below has qemu's machine in /proc and /sys.
while read -r kind where; do
	busybox mount -t "$kind" "$kind" "/root/$where"
done <<-LIST
	devtmpfs dev
	proc proc
	sysfs sys
	tmpfs run
	cgroup2 sys/fs/cgroup
	bpf sys/fs/bpf
	debugfs sys/kernel/debug
	tracefs sys/kernel/tracing
LIST
busybox hostname stock
exec busybox switch_root /root /bin/sh "$job/job.sh"
