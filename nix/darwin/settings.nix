# The options as settings of the program. It reads them from the store, so that a change restarts the service; the copy in
# /etc is for people, whose `sudo darwin-vz-nix status` then means this service.
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
  # JSON's strings and numbers are TOML's, too.
  set = name: value: "${name} = ${builtins.toJSON value}";

  # The guest to begin with, which needs no Linux machine to be made.
  guest =
    if cfg.guestBundle != null then
      cfg.guestBundle
    else
      pkgs.callPackage ../base-guest.nix {
        inherit (cfg) certificateFiles certificates;
        environment = cfg.guestEnvironment;
      };

  # Certificates that the guest can have when it builds its successor: files as they are. What a Mac must build first, or has
  # outside of the store, is not there. Nor is the usual bundle, which a Mac names among its own; a guest has that from nixpkgs.
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
  # Rosetta has to be registered in the guest, which the base guest does not do.
  wantsNixOS = cfg.extraNixOSConfig != null || (cfg.rosetta && cfg.guestBundle == null);
  # How to build the guest, not the guest: the Mac's system holds the .drv files, which evaluation has made anyhow, and
  # builds none of them (decision 0014).
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
      description = "The .drv of the guest that the first guest builds, if there is to be one.";
    };
    guestEnvironment = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      internal = true;
      readOnly = true;
      description = "Variables of the guest's nix-daemon.";
    };
  };

  config.services.darwin-vz = {
    inherit recipe;
    # In lower case: what downloads in a guest (curl, git, and those which have both spellings) knows that one.
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
        # Otherwise the program looks for it where installers of Nix put it.
        ++ lib.optional (recipe != null && config.nix.enable) (set "nix" "${config.nix.package}/bin")
        ++ lib.optional cfg.ephemeral (set "ephemeral" true)
        ++ lib.optional cfg.nestedVirtualization (set "nested-virtualization" true)
      )
    );
  };

  config.warnings = lib.mkIf cfg.enable (
    lib.optional (wantsNixOS && left != [ ]) (
      "services.darwin-vz.certificateFiles: the NixOS guest goes without ${
        lib.concatMapStringsSep ", " toString left
      }, "
      + "because it can only have files of this configuration. Add the text to services.darwin-vz.certificates instead."
    )
    ++ map (
      name:
      "services.darwin-vz: ${name} for the guest is ${cfg.guestEnvironment.${name}}, an address of this Mac alone: in the guest it is "
      + "the guest's own. Have the proxy listen on an address that other computers reach, and name that in services.darwin-vz.proxy."
    ) (lib.filter isOfThisMac (lib.attrNames (removeAttrs cfg.guestEnvironment [ "no_proxy" ])))
    ++ lib.optional (asksNix && !admitted) (
      "services.darwin-vz: the service's user asks Nix for paths of this Mac's store, and nix.settings.allowed-users "
      + "does not admit it. Add \"${cfg.user}\"."
    )
  );

  config.environment.etc.${names.configFile} = lib.mkIf cfg.enable {
    source = cfg.configFile;
  };
}
