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

  toml = lib.concatMapStrings (line: line + "\n");
  # JSON's strings and numbers are TOML's, too.
  set = name: value: "${name} = ${builtins.toJSON value}";

  guest =
    if cfg.guestBundle != null then
      cfg.guestBundle
    else if cfg.extraNixOSConfig != null then
      pkgs.callPackage ../nixos/bundle.nix {
        modules = [
          cfg.extraNixOSConfig
          {
            services.darwin-vz-guest = {
              inherit (cfg) certificateFiles certificates;
              environment = cfg.guestEnvironment;
            };
          }
        ];
      }
    else
      pkgs.callPackage ../base-guest.nix {
        inherit (cfg) certificateFiles certificates;
        environment = cfg.guestEnvironment;
      };
in
{
  options.services.darwin-vz = {
    configFile = lib.mkOption {
      type = lib.types.package;
      internal = true;
      readOnly = true;
      description = "The program's configuration file.";
    };
    guestEnvironment = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      internal = true;
      readOnly = true;
      description = "Variables of the guest's nix-daemon.";
    };
  };

  config.services.darwin-vz = {
    guestEnvironment = lib.filterAttrs (_: value: value != null) {
      http_proxy = cfg.proxy.http;
      https_proxy = cfg.proxy.https;
      no_proxy = cfg.proxy.exceptions;
    };
    configFile = pkgs.writeText "darwin-vz-nix.toml" (
      toml (
        [
          (set "state-dir" names.state)
          (set "log-level" cfg.logLevel)
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
        ++ lib.optional cfg.nestedVirtualization (set "nested-virtualization" true)
      )
    );
  };

  config.environment.etc."darwin-vz-nix/config.toml" = lib.mkIf cfg.enable {
    source = cfg.configFile;
  };
}
