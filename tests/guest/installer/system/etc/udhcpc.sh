#!/bin/busybox sh
# shellcheck shell=dash
# udhcpc calls this with what the network offers.
# shellcheck disable=SC2154  # from udhcpc
case $1 in
  deconfig) ip addr flush dev "$interface" ;;
  bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/$mask" dev "$interface"
    for gateway in $router; do ip route replace default via "$gateway" dev "$interface" && break; done
    for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
    ;;
esac
