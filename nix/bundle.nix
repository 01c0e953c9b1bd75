# guest.json of a bundle, version 1 (docs/guest-contract.md). The numbers are those of rust/protocol/src/lib.rs.
{
  arch,
  kernel,
  cmdline,
  image,
  toplevel ? null,
  features ? [ "host-store" ],
}:
{
  version = 1;
  inherit
    arch
    kernel
    cmdline
    toplevel
    features
    ;
  initrd = "initrd";
  images = [
    {
      file = image;
      role = "system";
      readOnly = true;
    }
  ];
  ssh = {
    vsockPort = 22;
    user = "builder";
  };
  nix.vsockPort = 24;
  agent.protocol = 1;
  minimumDisk = 1073741824;
}
