# The launchd jobs, the user they run as, and the log.
#
# launchd holds the listening socket. The first connection starts the daemon, and the daemon starts the guest; when
# idle, the daemon stops the guest and keeps running. There is no `KeepAlive`, which would restart a service that cannot
# start for ever. The next connection restarts a service that has ended.
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
        command = "${cfg.package}/bin/darwin-vz-nix --config ${cfg.configFile} daemon";
        serviceConfig = {
          Label = names.label;
          UserName = cfg.user;
          GroupName = cfg.group;
          WorkingDirectory = names.state;
          EnvironmentVariables.HOME = names.home;
          Umask = 63; # 077; a property list has no octal numbers
          RunAtLoad = !cfg.onDemand;
          # The program asks launchd for the sockets of this name (rust/host/src/activation.rs).
          Sockets.Listeners = {
            SockNodeName = "127.0.0.1";
            SockServiceName = toString cfg.port;
            SockFamily = "IPv4";
            SockType = "stream";
          };
          ExitTimeOut = names.graceSeconds;
          ProcessType = yielding "Interactive"; # no throttling of processor and disk, as a build waits for it
          StandardOutPath = yielding names.log;
          StandardErrorPath = yielding names.log;
        };
      };

      # 3 older logs of 1 MiB. They are not compressed, as the daemon writes to the renamed file until it restarts.
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
      # "Starts with the Mac" means: one connection through the ssh door, repeated every minute while it fails.
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
      # nix-darwin removes users and groups that it knows and that no module declares any more.
      users.knownUsers = [ cfg.user ];
      users.knownGroups = [ cfg.group ];
    }
  ];
}
