# shellcheck shell=bash
# The medium that installs a system. To be sourced by iso.sh.
#
#   medium     initial RAM disk: init, early.sh, modules, tools, install/BOOT*.EFI, install/system: what only the installed system has
#   disk       EFI system partition: BOOT*.EFI, with an initial RAM disk of the same init, early.sh and modules
#              ext4: busybox, the same tools, and install/system
#
# The medium carries what it installs in its RAM disk, so it need not find itself among the disks.
# shellcheck disable=SC2034  # for iso.sh
label=DVNINSTALL
# In the order in which they need each other.
# shellcheck disable=SC2034
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console
  failover net_failover virtio_net rng-core virtio-rng crc16 mbcache jbd2 crc32c_generic ext4 nls_cp437 nls_ascii fat vfat
  vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport fuse virtiofs
  button gpio-pl061 gpio_keys evdev"

# shellcheck disable=SC2317  # called by iso.sh
packages() {
  # Of their dependencies, what a program loads.
  debian_closure "${suite:?}" dosfstools e2fsprogs fdisk | grep -E ' (dosfstools|e2fsprogs|fdisk|lib[^ ]*)_[^ ]*$'
}

fill() {
  local own=${here:?}/installer disk=${work:?}/disk loader
  cp "$own/init" "${root:?}/init"
  base "$disk"
  cp "$own/init" "$disk/init"
  mkdir -p "$root/etc" "$root/install/system"
  program "$disk" "$root/install/BOOT${efi:?}.EFI"
  take_programs usr/sbin/{mke2fs,mkfs.fat,resize2fs,sfdisk}
  loader=$(readelf -l "${tree:?}/usr/sbin/sfdisk" | sed -n 's/.*program interpreter: \(.*\)]/\1/p')
  mkdir -p "$root$(dirname "$loader")"
  cp -L "$tree$loader" "$root$loader"
  cp "$tree/etc/mke2fs.conf" "$root/etc/"
  cp -R "$own/system/." "$root/install/system/"
  [ -z "${agent:-}" ] || install -D -m 755 "$agent" "$root/install/system/usr/local/bin/darwin-vz-agent"
}
