#!/bin/busybox sh
# shellcheck shell=dash
# Runs at each event of a device: says when the vsock device comes and goes.
# shellcheck disable=SC2154  # from the kernel
: >/run/events
case $SUBSYSTEM:$MODALIAS in
  virtio:virtio:d00000013*) echo "system: vsock device: $ACTION" ;;
esac
