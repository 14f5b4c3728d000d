#!/bin/sh
# What dpkg calls with purge, and rpm with 0: the state of all mounts goes too. Mounts that are served go on until
# they are unmounted.
case "$1" in
purge | 0) rm -rf /var/lib/latchfs ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
