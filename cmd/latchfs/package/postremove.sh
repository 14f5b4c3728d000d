#!/bin/sh
# dpkg calls this script with purge, and rpm with 0, to remove the state of all mounts too. Running mounts continue until
# they are unmounted.
case "$1" in
purge | 0) rm -rf /var/lib/latchfs ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
