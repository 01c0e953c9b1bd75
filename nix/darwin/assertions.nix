# Settings that cannot work, reported before anything is built.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.darwin-vz;
  names = import ./names.nix { inherit cfg; };
  host = pkgs.stdenv.hostPlatform;

  MiB = 1;
  GiB = 1024 * MiB;
  TiB = 1024 * GiB;
  parts = builtins.match "([1-9][0-9]{0,8})([MGT])" cfg.diskSize;
  disk =
    lib.toInt (builtins.elemAt parts 0)
    * {
      M = MiB;
      G = GiB;
      T = TiB;
    }
    .${builtins.elemAt parts 1};
  # The program's own limits (rust/config/src/check.rs). A NixOS guest needs more memory to build anything.
  least = {
    disk = 1 * GiB;
    memory = 1 * GiB;
    port = 1024;
  };
  most.disk = 64 * TiB;
  # A Unix socket's path has at most 103 bytes on a Mac; the longest is machines/builder/run/vsock_2147484672 in this
  # directory.
  longestDirectory = 103 - lib.stringLength "/machines/${names.machine}/run/vsock_2147484672";

  api =
    if cfg.apiListen == null then
      null
    else
      builtins.match "(127\\.0\\.0\\.1|\\[::1]):([1-9][0-9]{0,4})" cfg.apiListen;
  apiPort = lib.toInt (builtins.elemAt api 1);

  others = config.services.virby.enable or false || config.nix-rosetta-builder.enable or false;
in
{
  # The first two apply even while disabled: activation then removes the contents of that directory.
  config.assertions = [
    {
      assertion =
        lib.stringLength cfg.workingDirectory <= longestDirectory
        && builtins.match "/[^/]+/.*[^/]" cfg.workingDirectory != null
        && builtins.match "(.*/)?\\.\\.?(/.*)?" cfg.workingDirectory == null;
      message = "services.darwin-vz.workingDirectory is \"${cfg.workingDirectory}\". Give a directory two or more levels below /, without . and .., of at most ${toString longestDirectory} characters: the service's user owns it as a whole, and it contains sockets.";
    }
    {
      # Fewer than the program takes (rust/host/src/naming.rs): here shells and launchd read the path, too.
      assertion = builtins.match "[A-Za-z0-9._/-]*" cfg.workingDirectory != null;
      message = "services.darwin-vz.workingDirectory is \"${cfg.workingDirectory}\". Give a directory whose path has letters of ASCII, digits, \".\", \"_\" and \"-\" alone: Nix ends an address at a blank, ; or #, ssh and shells put something else for % and $, and each of them has more of that kind.";
    }
  ]
  ++ lib.optionals cfg.enable [
    {
      assertion = host.isDarwin && host.isAarch64;
      message = "services.darwin-vz needs a Mac with Apple silicon; this system is ${host.system}. Remove it from this configuration.";
    }
    {
      assertion = cfg.rosetta -> (host.isDarwin && host.isAarch64);
      message = "services.darwin-vz.rosetta: Rosetta for Linux exists only on Apple silicon, and this system is ${host.system}. Set it to false.";
    }
    {
      assertion = lib.elem "x86_64-linux" cfg.systems -> cfg.rosetta;
      message = "services.darwin-vz.systems has x86_64-linux, which the guest builds only with services.darwin-vz.rosetta = true.";
    }
    {
      assertion = !config.nix.linux-builder.enable;
      message = "nix.linux-builder and services.darwin-vz are both enabled, and both would build every Linux derivation. Set nix.linux-builder.enable = false; docs/migrating/linux-builder.md says what else to change.";
    }
    {
      assertion = !others;
      message = "Another Linux builder (services.virby or nix-rosetta-builder) is enabled beside services.darwin-vz, and both would build every Linux derivation. Disable it; see docs/migrating.";
    }
    {
      assertion = parts != null;
      message = "services.darwin-vz.diskSize is \"${cfg.diskSize}\". Give a whole number and M, G or T, such as \"100G\".";
    }
    {
      assertion = parts == null || (disk >= least.disk && disk <= most.disk);
      message = "services.darwin-vz.diskSize is \"${cfg.diskSize}\". Give at least 1G and at most 64T.";
    }
    {
      assertion = cfg.memory >= least.memory;
      message = "services.darwin-vz.memory is ${toString cfg.memory}, in MiB. A guest that builds needs ${toString least.memory} or more.";
    }
    {
      assertion = cfg.port >= least.port;
      message = "services.darwin-vz.port is ${toString cfg.port}${
        lib.optionalString (cfg.port == 22) ", where this Mac's own ssh server listens"
      }. Give the number of a free port from ${toString least.port} up, such as 31122: those below are for the system's services.";
    }
    {
      assertion = cfg.apiListen == null || (api != null && apiPort <= 65535);
      message = "services.darwin-vz.apiListen is \"${toString cfg.apiListen}\". Give a loopback address and a port, such as \"127.0.0.1:31180\" or \"[::1]:31180\".";
    }
    {
      assertion = api == null || apiPort >= least.port;
      message = "services.darwin-vz.apiListen is \"${toString cfg.apiListen}\". Give a port from ${toString least.port} up, such as 31180: the service's user may not listen on those below.";
    }
    {
      assertion = api == null || apiPort != cfg.port;
      message = "services.darwin-vz.apiListen is \"${toString cfg.apiListen}\", with the port where ssh reaches the guest (services.darwin-vz.port). Give another port, such as 31180.";
    }
    {
      assertion = config.nix.enable -> config.nix.distributedBuilds;
      message = "nix.distributedBuilds is false: Nix would send no builds to services.darwin-vz. Remove that line, or set services.darwin-vz.enable = false.";
    }
    {
      assertion = cfg.door == "direct" -> cfg.protocol == "ssh-ng";
      message = "services.darwin-vz.protocol = \"ssh\" goes through sshd only. Set services.darwin-vz.door = \"ssh\", too.";
    }
    {
      assertion = lib.elem "kvm" cfg.supportedFeatures -> cfg.nestedVirtualization;
      message = "services.darwin-vz.supportedFeatures has kvm, which the guest has only with services.darwin-vz.nestedVirtualization = true.";
    }
  ];
}
