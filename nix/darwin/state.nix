# What activation does besides what nix-darwin does of its own accord. nix-darwin runs `preActivation`, `extraActivation` and
# `postActivation`, and silently drops a script of any other name.
#
# Enabled: the state directory must be there before launchd loads the job (it is the job's working directory), and belongs to
# a user who is made only after `extraActivation`: hence numbers for owners. The keys are made by the program, as that user,
# once there is that user.
#
# Disabled: nix-darwin unloads the jobs, and removes files in /etc, user and group. The rest is removed here, last.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.darwin-vz;
  names = import ./names.nix { inherit cfg; };
  program = "${cfg.package}/bin/darwin-vz-nix --config ${cfg.configFile}";
in
{
  config = lib.mkMerge [
    (lib.mkIf cfg.enable {
      system.activationScripts.extraActivation.text = ''
        # darwin-vz-nix: the state directory, for its user alone
        /bin/mkdir -p ${names.state}
        /bin/chmod 700 ${names.state}
        /usr/sbin/chown -R ${toString cfg.uid}:${toString cfg.gid} ${names.state}
      '';
      system.activationScripts.postActivation.text = ''
        # darwin-vz-nix: the guest's host key, pinned for ssh. The first run makes the keys.
        echo "setting up the Linux builder's keys..." >&2
        if darwinVzKnownHosts=$(cd / && /usr/bin/sudo -u ${cfg.user} -- ${program} nix-config --only known-hosts); then
          printf '%s\n' "$darwinVzKnownHosts" >${names.knownHosts}.new
          /bin/chmod 644 ${names.knownHosts}.new
          /bin/mv -f ${names.knownHosts}.new ${names.knownHosts}
        ${
          if cfg.allowUserSsh then
            ''
              # ssh refuses a key that others can read only if it belongs to whoever uses it, and this one is root's.
              /usr/bin/install -m 640 -o root -g admin ${names.machineDir}/id_ed25519 ${names.userKey}
            ''
          else
            ''
              /bin/rm -f ${names.userKey}
            ''
        }
        else
          printf >&2 '\e[1;31merror: the Linux builder has no keys, so ssh cannot reach it; see the message above\e[0m\n'
        fi
      '';
    })
    (lib.mkIf (!cfg.enable) {
      system.activationScripts.postActivation.text = ''
        # darwin-vz-nix is disabled: nothing of it stays${lib.optionalString cfg.keepDisk " but the disk"}
        /bin/rm -f ${names.knownHosts} ${names.userKey}
        if [ -d ${names.public} ]; then /bin/rmdir ${names.public} 2>/dev/null || true; fi
      ''
      + (
        if cfg.keepDisk then
          ''
            if [ -d ${names.state} ]; then
              /usr/bin/find ${names.state} ! -name data.img ! -type d -delete
              /usr/bin/find ${names.state} -depth -type d -empty -delete
            fi
          ''
        else
          ''
            /bin/rm -rf ${names.state}
          ''
      );
    })
  ];
}
