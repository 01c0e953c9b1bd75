# shellcheck shell=bash
# The medium that says what it finds. To be sourced by iso.sh.
# shellcheck disable=SC2034  # for iso.sh
label=DVNTEST
# In the order in which they need each other.
# shellcheck disable=SC2034
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console
  button gpio-pl061 gpio_keys evdev"

# shellcheck disable=SC2317  # called by iso.sh
packages() { :; }

fill() { cp "${here:?}/medium/init" "${root:?}/init"; }
