# The options. Their descriptions are the reference: docs/module-options.md is made from them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) literalExpression mkOption types;
  cfg = config.services.darwin-vz;

  # A proxy variable of the Mac's own Nix, in either spelling: programs accept both, and prefer lower case. nix-darwin
  # forbids reading `nix.*` while `nix.enable` is off.
  daemonVariable =
    name:
    let
      variables = if config.nix.enable then config.nix.envVars else { };
      given = lib.filter (value: value != null && value != "") [
        (variables.${name} or null)
        (variables.${lib.toUpper name} or null)
      ];
    in
    if given == [ ] then null else builtins.head given;
  proxy =
    name: description:
    mkOption {
      inherit description;
      # A line of a file in the guest.
      type = types.nullOr (types.strMatching "[^[:cntrl:]]*");
      default = daemonVariable name;
      defaultText = literalExpression "config.nix.envVars.${name} or config.nix.envVars.${lib.toUpper name} or null";
      example = if name == "no_proxy" then "localhost,.example.org" else "http://proxy.example.org:3128";
    };
in
{
  options.services.darwin-vz = {
    enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether to run the Linux builder. If `enable` is turned off while this module stays imported, the next activation
        removes everything that the module made, except for the disk if {option}`services.darwin-vz.keepDisk` is on.
      '';
    };

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ../package.nix { };
      defaultText = literalExpression "pkgs.callPackage ./nix/package.nix { }";
      description = "The package with the program.";
    };

    cores = mkOption {
      type = types.ints.positive;
      default = 4;
      example = 8;
      description = "Processors of the guest. The service refuses to start with more than the Mac has.";
    };

    memory = mkOption {
      type = types.ints.positive;
      default = 8192;
      example = 16384;
      description = "Memory of the guest in MiB. It is allocated while a guest runs, and freed when it stops.";
    };

    diskSize = mkOption {
      type = types.str;
      default = "100G";
      example = "200G";
      description = ''
        Size of the data disk as the guest sees it: a whole number and `M`, `G` or `T`. The file is sparse and takes only
        the space in use. A disk can grow, but not shrink.
      '';
    };

    rosetta = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether the guest also builds for `x86_64-linux`, through Rosetta. Install Rosetta first:
        `softwareupdate --install-rosetta`. The guest must register it, and the base guest does not: unless
        {option}`services.darwin-vz.guestBundle` is a guest that does, the guest becomes a NixOS system, as with
        `extraNixOSConfig = { }`. Until that is built, builds for `x86_64-linux` fail.
      '';
    };

    idleTimeout = mkOption {
      type = types.ints.unsigned;
      default = 180;
      example = 30;
      description = "Minutes without a connection until the guest is stopped; 0 means never.";
    };

    onDemand = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether the guest starts when a build needs it. Otherwise it starts with the Mac and is not stopped when idle,
        whatever {option}`services.darwin-vz.idleTimeout` says.
      '';
    };

    port = mkOption {
      type = types.port;
      default = 31122;
      description = ''
        TCP port on 127.0.0.1 where ssh reaches the guest, 1024 or higher. launchd listens on it even while nothing runs.
      '';
    };

    apiListen = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "127.0.0.1:31180";
      description = ''
        TCP address of the HTTP API, for metrics and the like: a loopback address and a port, such as `127.0.0.1:31180` or
        `[::1]:31180`. The port must be 1024 or higher and differ from {option}`services.darwin-vz.port`. Requests need the
        token, which only the service's user and root can read: `sudo darwin-vz-nix token`. The API answers while the
        service runs: from its first use on, or from the start of the Mac if {option}`services.darwin-vz.onDemand` is off.
      '';
    };

    door = mkOption {
      type = types.enum [
        "direct"
        "ssh"
      ];
      default = "direct";
      description = ''
        How Nix reaches the guest's nix-daemon: `direct` connects Nix to it through the program, which takes about half the
        time of ssh for a small build; `ssh` goes through sshd, as with any remote builder.
      '';
    };

    protocol = mkOption {
      type = types.enum [
        "ssh-ng"
        "ssh"
      ];
      default = "ssh-ng";
      description = "Nix's protocol. `ssh` is the legacy one, and only works with the door `ssh`.";
    };

    extraNixOSConfig = mkOption {
      type = types.nullOr types.deferredModule;
      default = null;
      example = literalExpression "{ nix.settings.cores = 2; }";
      description = ''
        NixOS modules for the guest, which then becomes a NixOS system of its own. The Mac's system contains only its recipe:
        the service starts with the base guest, builds the recipe there, and switches to the result once the guest is not
        in use. If the new guest does not boot, the service returns to the one before it; `darwin-vz-nix generations`
        shows this.
      '';
    };

    guestBundle = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = literalExpression "inputs.darwin-vz-nix.packages.aarch64-linux.guest-bundle";
      description = ''
        Directory of the first guest bundle (`docs/guest-contract.md`). By default the base guest, which the Mac packs
        from packages of the public cache. With {option}`services.darwin-vz.extraNixOSConfig` it builds the next guest, and
        remains available as a fallback.
      '';
    };

    shareHostStore = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether the guest builds on the Mac's `/nix/store`: inputs that are there are used in place instead of being
        copied. The guest sees that store read-only, and cannot list it: it can only look up names.
      '';
    };

    nestedVirtualization = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether the guest may run virtual machines, which derivations with the feature `kvm` require, such as NixOS tests. Needs
        an Apple M3 or newer and macOS 15 or newer: elsewhere the service reports an error, and starts no guest.
      '';
    };

    systems = mkOption {
      type = types.listOf types.nonEmptyStr;
      default = [ "aarch64-linux" ] ++ lib.optional cfg.rosetta "x86_64-linux";
      defaultText = literalExpression ''[ "aarch64-linux" ] ++ lib.optional rosetta "x86_64-linux"'';
      description = "Systems for which Nix sends builds to the builder.";
    };

    supportedFeatures = mkOption {
      type = types.listOf types.nonEmptyStr;
      default = [
        "benchmark"
        "big-parallel"
      ]
      ++ lib.optionals cfg.nestedVirtualization [
        "kvm"
        "nixos-test"
      ];
      defaultText = literalExpression ''[ "benchmark" "big-parallel" ] ++ lib.optionals nestedVirtualization [ "kvm" "nixos-test" ]'';
      description = "Features that a derivation may require of the builder. `kvm` only with nested virtualisation.";
    };

    maxJobs = mkOption {
      type = types.ints.positive;
      default = cfg.cores;
      defaultText = literalExpression "cores";
      description = "Maximum number of parallel builds.";
    };

    speedFactor = mkOption {
      type = types.ints.positive;
      default = 1;
      description = "Speed of the builder, relative to other builders.";
    };

    user = mkOption {
      type = types.strMatching "_[a-z][a-z0-9-]{0,29}";
      default = "_darwin-vz";
      description = "User that the service runs as; created by the module, and removed when it is disabled. Begins with `_`, as macOS's own do.";
    };

    uid = mkOption {
      type = types.ints.between 502 65533;
      default = 31122;
      description = "Number of the user. nix-darwin only removes users above 501. The user is hidden nevertheless.";
    };

    group = mkOption {
      type = types.strMatching "_[a-z][a-z0-9-]{0,29}";
      default = "_darwin-vz";
      description = "Group of that user; created by the module, and removed when it is disabled.";
    };

    gid = mkOption {
      type = types.ints.between 502 65533;
      default = 31122;
      description = "Number of the group.";
    };

    workingDirectory = mkOption {
      type = types.str;
      default = "/var/lib/darwin-vz";
      description = ''
        Directory of disk, keys and logs, for the service's user alone. It must be empty or missing when the service is
        first enabled. Its path has only ASCII letters, digits, `.`, `_` and `-`, because ssh, Nix and shells parse it. After a
        change the old directory stays: remove it by hand.
      '';
    };

    keepDisk = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the disk is kept when `enable` is turned off. Keys, logs and configuration are removed in any case.";
    };

    ephemeral = mkOption {
      type = types.bool;
      default = false;
      description = "Whether the guest starts with an empty disk each time.";
    };

    logLevel = mkOption {
      type = types.enum [
        "error"
        "warn"
        "info"
        "debug"
        "trace"
      ];
      default = "info";
      description = "Log level.";
    };

    allowUserSsh = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether administrators (the group `admin`) may log in with `ssh darwin-vz-builder`. Otherwise only root can. A
        user who can log in can change what the builder builds.
      '';
    };

    proxy = {
      http = proxy "http_proxy" "Proxy for the guest's downloads over HTTP.";
      https = proxy "https_proxy" "Proxy for the guest's downloads over HTTPS.";
      ftp = proxy "ftp_proxy" "Proxy for the guest's downloads over FTP.";
      all = proxy "all_proxy" "Proxy for downloads over protocols without a proxy of their own here.";
      exceptions = proxy "no_proxy" "Hosts, separated by commas, that the guest reaches without a proxy.";
    };

    certificateFiles = mkOption {
      type = types.listOf types.path;
      default = config.security.pki.certificateFiles;
      defaultText = literalExpression "config.security.pki.certificateFiles";
      description = ''
        Certificate authorities that the guest trusts, PEM. By default those of the Mac, so that the guest also
        trusts a company's own proxy.
      '';
    };

    certificates = mkOption {
      type = types.listOf types.str;
      default = config.security.pki.certificates;
      defaultText = literalExpression "config.security.pki.certificates";
      description = "Further certificate authorities, as text.";
    };
  };
}
