# What a configuration leads to, as plain data: all that our module adds to a Mac, and nothing else.
{
  lib,
  config,
  activation,
  ...
}:
let
  inherit (builtins) attrNames filter listToAttrs;
  cfg = config.services.darwin-vz;
  only = names: set: lib.filterAttrs (name: _: lib.elem name names) set;
  # Without what nobody has set, all the way down.
  present =
    value:
    if builtins.isAttrs value then
      builtins.mapAttrs (_: present) (lib.filterAttrs (_: v: v != null) value)
    else if builtins.isList value then
      map present value
    else
      value;
  lines = text: filter (part: builtins.isString part) (builtins.split "\n" text);
  warnings = filter (lib.hasInfix "services.darwin-vz") config.warnings;
  failed = map (a: a.message) (filter (a: !a.assertion) config.assertions);
  ours =
    name:
    lib.elem name [
      "darwin-vz-nix/config.toml"
      "newsyslog.d/darwin-vz-nix.conf"
      "ssh/ssh_config.d/100-darwin-vz-nix.conf"
    ]
    || (name == "nix/machines" && !config.nix.enable);
  etc = filter ours (attrNames config.environment.etc);
  # Text as lines, so that a snapshot can be read. The first line of a script names a shell of the host's.
  body = script: [ "#!" ] ++ filter (line: line != "") (builtins.tail (lines script.text));
  daemons = filter (lib.hasPrefix "darwin-vz") (attrNames config.launchd.daemons);
  plists = listToAttrs (
    map (name: {
      inherit name;
      value = present config.launchd.daemons.${name}.serviceConfig;
    }) daemons
  );
  script = name: config.system.activationScripts.${name}.text;
  # Without what nix-darwin says there of its own accord.
  activationOf =
    name: filter (line: line != "" && line != "rm -rf /var/lib/linux-builder") (lines (script name));
  bare = builtins.unsafeDiscardStringContext; # to search one string for another
  isRun = name: activation == null || lib.hasInfix (bare (script name)) (bare activation);
in
if failed != [ ] then
  { inherit failed; }
else
  {
    launchd = plists;
    inherit warnings;
    configFile = if cfg.enable then lines cfg.configFile.text else [ ];
    # What the file refers to, and with it the Mac's system: outputs, which must be built before it, or a file as it is.
    configFileNeeds =
      if cfg.enable then
        builtins.mapAttrs (_: need: if need == { path = true; } then "this file" else need) (
          builtins.getContext cfg.configFile.text
        )
      else
        { };
    connectProgram = if cfg.enable && cfg.door == "direct" then body cfg.connectProgram else [ ];
    etc = listToAttrs (
      map (name: {
        inherit name;
        value =
          let
            file = config.environment.etc.${name};
          in
          if file.text or null != null && file.text != "" then lines file.text else "${file.source}";
      }) etc
    );
    nix =
      if config.nix.enable then
        {
          inherit (config.nix) distributedBuilds;
          buildMachines = map present config.nix.buildMachines;
          builders-use-substitutes = config.nix.settings.builders-use-substitutes or false;
        }
      else
        "not managed";
    activation = lib.genAttrs [
      "preActivation"
      "extraActivation"
      "postActivation"
    ] (name: if isRun name then activationOf name else throw "${name} is not run");
    users = {
      known = filter (lib.hasPrefix "_") (filter (n: n == cfg.user) config.users.knownUsers);
      users = present (
        builtins.mapAttrs (
          _:
          only [
            "uid"
            "gid"
            "home"
            "shell"
            "isHidden"
            "description"
          ]
        ) (only [ cfg.user ] config.users.users)
      );
      groups = present (
        builtins.mapAttrs (
          _:
          only [
            "gid"
            "description"
          ]
        ) (only [ cfg.group ] config.users.groups)
      );
    };
    guest = {
      environment = cfg.guestEnvironment;
      inherit (cfg) certificates;
    };
  }
