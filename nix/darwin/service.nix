# The launchd jobs, the user they run as, and the log.
#
# launchd holds the listening socket. The first connection starts the daemon, the daemon starts the guest; when idle, the
# daemon stops the guest and stays. There is no `KeepAlive`: with it, a service that cannot start would be started for ever.
# One that has ended is started by the next connection.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.darwin-vz;
  names = import ./names.nix { inherit cfg; };
  inherit (import ./yielding.nix { inherit lib; }) yielding;
in
{
  config = lib.mkMerge [
    (lib.mkIf cfg.enable {
      environment.systemPackages = [ cfg.package ];

      launchd.daemons.${names.service} = {
        # `command`, not raw ProgramArguments: nix-darwin makes only the former wait for the volume of /nix.
        command = "${cfg.package}/bin/darwin-vz-nix --config ${cfg.configFile} run";
        serviceConfig = {
          Label = names.label;
          UserName = cfg.user;
          GroupName = cfg.group;
          WorkingDirectory = names.state;
          EnvironmentVariables.HOME = names.home;
          Umask = 63; # 077; a property list knows no octal numbers
          RunAtLoad = !cfg.onDemand;
          # The program asks launchd for the sockets of this name (rust/host/src/activation.rs).
          Sockets.Listeners = {
            SockNodeName = "127.0.0.1";
            SockServiceName = toString cfg.port;
            SockFamily = "IPv4";
            SockType = "stream";
          };
          ExitTimeOut = names.graceSeconds;
          ProcessType = yielding "Interactive"; # no throttling of processor and disk: a build waits for it
          StandardOutPath = yielding names.log;
          StandardErrorPath = yielding names.log;
        };
      };

      # 3 older logs of 1 MiB. They are not compressed: the daemon writes to the renamed one until it is started again.
      environment.etc.${names.newsyslog}.text = yielding ''
        # logfilename ${"\t"}[owner:group] ${"\t"}mode count size when flags
        ${names.log} ${"\t"}${cfg.user}:${cfg.group} ${"\t"}600 3 1024 * N
      '';

      users.users.${cfg.user} = {
        inherit (cfg) uid gid;
        home = "/var/empty"; # nix-darwin refuses to change it, ever
        isHidden = yielding true;
        shell = yielding "/usr/bin/false";
        description = yielding "darwin-vz-nix Linux builder";
      };
      users.groups.${cfg.group} = {
        inherit (cfg) gid;
        description = yielding "darwin-vz-nix Linux builder";
      };
    })
    (lib.mkIf (cfg.enable && !cfg.onDemand) {
      # What "starts with the Mac" means: one connection through the ssh door, again after a minute while it fails.
      launchd.daemons."${names.service}-start" = {
        serviceConfig = {
          Label = "${names.label}-start";
          ProgramArguments = [
            "/usr/bin/ssh"
            "-o"
            "BatchMode=yes"
            names.alias
            "true"
          ];
          RunAtLoad = true;
          KeepAlive.SuccessfulExit = false;
          ThrottleInterval = yielding 60;
        };
      };
    })
    {
      # nix-darwin removes those which it knows and which nobody declares any more.
      users.knownUsers = [ cfg.user ];
      users.knownGroups = [ cfg.group ];
    }
  ];
}
