# Values that the module sets outside of its own options and that must not differ. The module system's error for a
# second definition names this module's files without a remedy; the assertions here come first and give one.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.darwin-vz;
  names = import ./names.nix { inherit cfg; };
  etc = name: config.environment.etc.${name}.source;
  # nix-darwin reports no error for a file whose source another module replaces, and the text would be lost.
  writtenText =
    name:
    let
      file = config.environment.etc.${name};
    in
    if file.source.text or null == file.text then file.text else throw "another source";
  job = config.launchd.daemons.${names.service};
  start = config.launchd.daemons."${names.service}-start";
  user = config.users.users.${cfg.user};
  group = config.users.groups.${cfg.group};
  listener = job.serviceConfig.Sockets.Listeners;

  # All options of a job that the module sets, as `launchd.daemons.NAME.serviceConfig.KEY`.
  keys =
    name: daemon: instead:
    map (key: {
      option = "launchd.daemons.${name}.serviceConfig.${key}";
      value = daemon.serviceConfig.${key};
      instead = instead.${key} or fixed;
    });
  set = option: "Set services.darwin-vz.${option} instead.";
  fixed = "The module's value must not differ: remove that line.";

  settled = [
    {
      option = "environment.etc.\"${names.sshConfig}\"";
      value = writtenText names.sshConfig;
      instead = "Put hosts of your own into another file of /etc/ssh/ssh_config.d.";
    }
    {
      option = "environment.etc.\"${names.configFile}\"";
      value = etc names.configFile;
      whole = true;
      instead = "Set options of services.darwin-vz instead: the service reads those.";
    }
    {
      option = "launchd.daemons.${names.service}.command";
      value = job.command;
      whole = true;
      instead = set "package";
    }
    {
      option = "launchd.daemons.${names.service}.serviceConfig.EnvironmentVariables.HOME";
      value = job.serviceConfig.EnvironmentVariables.HOME;
      instead = fixed;
    }
    {
      option = "users.users.${cfg.user}.uid";
      value = user.uid;
      instead = set "uid";
    }
    {
      option = "users.users.${cfg.user}.gid";
      value = user.gid;
      instead = set "gid";
    }
    {
      option = "users.users.${cfg.user}.home";
      value = user.home;
      instead = set "workingDirectory";
    }
    {
      option = "users.groups.${cfg.group}.gid";
      value = group.gid;
      instead = set "gid";
    }
  ]
  ++
    map
      (key: {
        option = "launchd.daemons.${names.service}.serviceConfig.Sockets.Listeners.${key}";
        value = listener.${key};
        instead = if key == "SockServiceName" then set "port" else fixed;
      })
      [
        "SockNodeName"
        "SockServiceName"
        "SockFamily"
        "SockType"
      ]
  ++
    keys names.service job
      {
        UserName = set "user";
        GroupName = set "group";
        WorkingDirectory = set "workingDirectory";
        RunAtLoad = set "onDemand";
      }
      [
        "Label"
        "UserName"
        "GroupName"
        "WorkingDirectory"
        "Umask"
        "RunAtLoad"
        "ExitTimeOut"
      ]
  ++ lib.optionals (!cfg.onDemand) (
    keys "${names.service}-start" start
      {
        RunAtLoad = set "onDemand";
      }
      [
        "Label"
        "ProgramArguments"
        "RunAtLoad"
        "KeepAlive"
      ]
  )
  ++ lib.optional (!config.nix.enable) {
    option = "environment.etc.\"nix/machines\"";
    value = writtenText "nix/machines";
    instead = "Add your own builders as its text: the file gets those lines and the module's.";
  };
  # What these values are made of. Errors in them are the user's own, and are reported by the module system.
  ours = [
    cfg.user
    cfg.uid
    cfg.group
    cfg.gid
    cfg.workingDirectory
    cfg.port
    cfg.onDemand
    cfg.allowUserSsh
  ];
  # Values that contain the program and its settings need the whole guest to be evaluated, so they are left to Macs that
  # can have one.
  sound = pkgs.stdenv.hostPlatform.isDarwin && pkgs.stdenv.hostPlatform.isAarch64;
  oursOf = each: if each.whole or false then [ "${cfg.package} ${cfg.configFile}" ] else [ ];
  undisputed =
    each:
    (each.whole or false && !sound)
    || builtins.deepSeq (ours ++ oursOf each) (builtins.tryEval each.value).success;
in
{
  config.assertions = lib.mkIf cfg.enable (
    map (each: {
      assertion = undisputed each;
      message = "${each.option} is set, and services.darwin-vz sets it, too, to something else. ${each.instead}";
    }) settled
  );
}
