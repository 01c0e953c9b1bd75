# Kernel modules of the base guest. pack.py adds their dependencies and orders them. A module with `?` is optional.
[
  "virtio_pci"
  "virtio_console" # hvc0
  "virtio_blk"
  "virtio_net"
  "virtio_rng"
  "vmw_vsock_virtio_transport"
  "crc32c_generic?" # older kernels look it up by name
  "erofs"
  "ext4"
  "virtiofs"
  "overlay"
  # The power button: ACPI's, a GPIO line, or a keyboard's.
  "button?"
  "gpio_pl061?"
  "gpio_keys?"
  "evdev"
]
