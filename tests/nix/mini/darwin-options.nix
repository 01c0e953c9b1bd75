# The options of nix-darwin that our module reads or sets, as far as its tests need them, from nix-darwin's manual. Stricter
# in one point: an activation script that nix-darwin would silently drop is an error here.
{
  lib,
  config,
  pkgs,
  ...
}:
let
  t = lib.types;
  opt = type: default: lib.mkOption { inherit type default; };
  # As there: with `nix.enable = false`, `nix.*` must not even be read.
  managed =
    name: type: default:
    opt type (
      if config.nix.enable then default else throw "nix.${name}: accessed when `nix.enable` is off"
    );
  nullOr = type: opt (t.nullOr type) null;
  account = {
    gid = opt t.int 20;
    description = nullOr t.nonEmptyStr;
  };
in
{
  options = {
    assertions = opt (t.listOf t.raw) [ ];
    warnings = opt (t.listOf t.str) [ ];
    environment.etc = opt (t.attrsOf (
      t.submodule (
        { config, ... }:
        {
          options = {
            enable = opt t.bool true;
            text = nullOr t.lines;
            source = nullOr t.path;
          };
          # As there: of a text a file is made.
          config.source = lib.mkIf (config.text != null) (lib.mkDefault (pkgs.writeText "etc" config.text));
        }
      )
    )) { };
    environment.systemPackages = opt (t.listOf t.package) [ ];
    security.pki.certificateFiles = opt (t.listOf t.path) [ ];
    security.pki.certificates = opt (t.listOf t.str) [ ];
    nix = {
      enable = opt t.bool true;
      linux-builder = {
        enable = opt t.bool false;
        systems = opt (t.listOf t.str) [ ];
        maxJobs = opt t.int 1;
      };
      package = managed "package" t.package pkgs.nix;
      distributedBuilds = managed "distributedBuilds" t.bool false;
      envVars = managed "envVars" (t.attrsOf t.str) { };
      settings = managed "settings" (t.attrsOf t.anything) { };
      buildMachines = managed "buildMachines" (t.listOf (
        t.submodule {
          options = {
            hostName = lib.mkOption { type = t.nonEmptyStr; };
            protocol = opt (t.enum [
              null
              "ssh"
              "ssh-ng"
            ]) "ssh";
            system = nullOr t.str;
            systems = opt (t.listOf t.str) [ ];
            sshUser = nullOr t.str;
            sshKey = nullOr t.str;
            maxJobs = opt t.int 1;
            speedFactor = opt t.int 1;
            supportedFeatures = opt (t.listOf t.str) [ ];
            mandatoryFeatures = opt (t.listOf t.str) [ ];
            publicHostKey = nullOr t.str;
          };
        }
      )) [ ];
    };
    # Other builders, which users may have beside ours.
    services.virby.enable = opt t.bool false;
    nix-rosetta-builder.enable = opt t.bool false;

    users.knownUsers = opt (t.listOf t.str) [ ];
    users.knownGroups = opt (t.listOf t.str) [ ];
    users.groups = opt (t.attrsOf (t.submodule { options = account; })) { };
    users.users = opt (t.attrsOf (
      t.submodule {
        options = account // {
          uid = lib.mkOption { type = t.int; };
          home = nullOr t.path;
          shell = nullOr t.path;
          isHidden = opt t.bool true;
        };
      }
    )) { };

    launchd.daemons = opt (t.attrsOf (
      t.submodule (
        { config, name, ... }:
        {
          options = {
            command = opt t.str "";
            serviceConfig = opt (t.submodule {
              options = {
                Label = nullOr t.str;
                ProgramArguments = nullOr (t.listOf t.str);
                UserName = nullOr t.str;
                GroupName = nullOr t.str;
                KeepAlive = nullOr (t.either t.bool t.attrs);
                RunAtLoad = nullOr t.bool;
                EnvironmentVariables = nullOr (t.attrsOf t.str);
                WorkingDirectory = nullOr t.str;
                StandardOutPath = nullOr t.path;
                StandardErrorPath = nullOr t.path;
                ThrottleInterval = nullOr t.int;
                ExitTimeOut = nullOr t.int;
                Umask = nullOr t.int;
                ProcessType = nullOr (
                  t.enum [
                    "Background"
                    "Standard"
                    "Adaptive"
                    "Interactive"
                  ]
                );
                Sockets = nullOr (
                  t.attrsOf (
                    t.submodule {
                      options = {
                        SockNodeName = nullOr t.str;
                        SockServiceName = nullOr t.str;
                        SockFamily = nullOr (
                          t.enum [
                            "IPv4"
                            "IPv6"
                          ]
                        );
                        SockType = nullOr (
                          t.enum [
                            "stream"
                            "dgram"
                            "seqpacket"
                          ]
                        );
                      };
                    }
                  )
                );
              };
            }) { };
          };
          config.serviceConfig = {
            Label = lib.mkDefault "org.nixos.${name}";
            ProgramArguments = lib.mkIf (config.command != "") [
              "/bin/sh"
              "-c"
              "/bin/wait4path /nix/store && exec ${config.command}"
            ];
          };
        }
      )
    )) { };
    nixpkgs.hostPlatform = opt t.str null;
    system.stateVersion = opt t.int 6;
    system.activationScripts =
      lib.genAttrs
        [
          "preActivation"
          "extraActivation"
          "postActivation"
        ]
        (_: {
          text = opt t.lines "";
        });
  };
}
