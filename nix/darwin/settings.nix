# The options as settings of the program. It reads them from the store, so that a change restarts the service. The copy
# in /etc is for interactive use: with it, `sudo darwin-vz-nix status` addresses this service.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.darwin-vz;
  names = import ./names.nix { inherit cfg; };
  inherit (import ./yielding.nix { inherit lib; }) yielding;

  toml = lib.concatMapStrings (line: line + "\n");
  # JSON's strings and numbers are valid in TOML, too.
  set = name: value: "${name} = ${builtins.toJSON value}";

  # The first guest, which is made without a Linux machine.
  guest =
    if cfg.guestBundle != null then
      cfg.guestBundle
    else
      pkgs.callPackage ../base-guest.nix {
        inherit (cfg) certificateFiles certificates;
        environment = cfg.guestEnvironment;
      };

  # Certificates available when the guest builds its successor: existing files only. Files that a Mac must build first,
  # or that are outside the store, are missing there. The Mac's default bundle is left out, as a guest has it from
  # nixpkgs.
  carried =
    file:
    lib.hasPrefix builtins.storeDir "${file}"
    && lib.all (need: !(need ? outputs)) (lib.attrValues (builtins.getContext "${file}"));
  nixosGuest = pkgs.callPackage ../nixos/bundle.nix {
    modules = [
      (if cfg.extraNixOSConfig != null then cfg.extraNixOSConfig else { })
      {
        services.darwin-vz-guest = {
          inherit (cfg) certificates;
          certificateFiles = lib.filter carried cfg.certificateFiles;
          environment = lib.mapAttrs (_: yielding) cfg.guestEnvironment;
        };
      }
    ];
  };
  # The service's user reads recipe and shared paths through the Mac's Nix daemon.
  asksNix = config.nix.enable && (wantsNixOS || cfg.shareHostStore);
  admitted = lib.any (who: lib.elem who (config.nix.settings.allowed-users or [ "*" ])) [
    "*"
    cfg.user
    "@${cfg.group}"
  ];
  isUsualBundle = file: lib.hasInfix "-nss-cacert-" "${file}";
  left = lib.filter (file: !carried file && !isUsualBundle file) cfg.certificateFiles;
  isOfThisMac =
    name:
    builtins.match "([a-zA-Z0-9]+://)?([^/@]*@)?(localhost|127\\.[0-9.]+|\\[::1])([:/].*)?"
      cfg.guestEnvironment.${name} != null;
  # The guest must register Rosetta, and the base guest does not.
  wantsNixOS = cfg.extraNixOSConfig != null || (cfg.rosetta && cfg.guestBundle == null);
  # How to build the guest, not the guest itself: the Mac's system holds the .drv files, which evaluation creates
  # anyway, and builds none of them (decision 0014).
  recipe = if wantsNixOS then builtins.unsafeDiscardOutputDependency nixosGuest.drvPath else null;
in
{
  options.services.darwin-vz = {
    configFile = lib.mkOption {
      type = lib.types.package;
      internal = true;
      readOnly = true;
      description = "The program's configuration file.";
    };
    recipe = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      internal = true;
      readOnly = true;
      description = "The .drv of the guest that the first guest builds, if any.";
    };
    guestEnvironment = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      internal = true;
      readOnly = true;
      description = "Environment variables of the guest's nix-daemon.";
    };
  };

  config.services.darwin-vz = {
    inherit recipe;
    # In lower case: programs that download in a guest (curl, git, and those that accept both spellings) read that one.
    guestEnvironment = lib.filterAttrs (_: value: value != null && value != "") {
      http_proxy = cfg.proxy.http;
      https_proxy = cfg.proxy.https;
      ftp_proxy = cfg.proxy.ftp;
      all_proxy = cfg.proxy.all;
      no_proxy = cfg.proxy.exceptions;
    };
    configFile = pkgs.writeText "darwin-vz-nix.toml" (
      toml (
        [
          (set "state-dir" names.state)
          (set "log-level" cfg.logLevel)
        ]
        ++ lib.optional (cfg.apiListen != null) (set "api-listen" cfg.apiListen)
        ++ [
          ""
          "[machines.${names.machine}]"
          (set "bundle" "${guest}")
          (set "listen" "127.0.0.1:${toString cfg.port}")
          (set "cores" cfg.cores)
          (set "memory" cfg.memory)
          (set "disk-size" cfg.diskSize)
          (set "idle-timeout" (if cfg.onDemand then cfg.idleTimeout else 0))
          (set "rosetta" cfg.rosetta)
          (set "share-store" cfg.shareHostStore)
        ]
        ++ lib.optional (recipe != null) (set "recipe" recipe)
        # Otherwise the program searches the usual places of Nix installers.
        ++ lib.optional (recipe != null && config.nix.enable) (set "nix" "${config.nix.package}/bin")
        ++ lib.optional cfg.ephemeral (set "ephemeral" true)
        ++ lib.optional cfg.nestedVirtualization (set "nested-virtualization" true)
      )
    );
  };

  config.warnings = lib.mkIf cfg.enable (
    lib.optional (wantsNixOS && left != [ ]) (
      "services.darwin-vz.certificateFiles: the NixOS guest lacks ${
        lib.concatMapStringsSep ", " toString left
      }, "
      + "because it can only contain files of this configuration. Add the text to services.darwin-vz.certificates instead."
    )
    ++ map (
      name:
      "services.darwin-vz: ${name} for the guest is ${cfg.guestEnvironment.${name}}, a loopback address: in the guest it is "
      + "the guest's own. Make the proxy listen on an address that other computers can reach, and set that in services.darwin-vz.proxy."
    ) (lib.filter isOfThisMac (lib.attrNames (removeAttrs cfg.guestEnvironment [ "no_proxy" ])))
    ++ lib.optional (asksNix && !admitted) (
      "services.darwin-vz: the service's user queries this Mac's Nix, and nix.settings.allowed-users "
      + "does not admit it. Add \"${cfg.user}\"."
    )
  );

  config.environment.etc.${names.configFile} = lib.mkIf cfg.enable {
    source = cfg.configFile;
  };
}
