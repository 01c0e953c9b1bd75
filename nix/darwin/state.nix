# What activation does besides what nix-darwin does of its own accord. nix-darwin runs `preActivation`, `extraActivation` and
# `postActivation`, and silently drops a script of any other name.
#
#   preActivation    refuses a state directory that has something in it and was not made here, before anything is changed
#   extraActivation  makes it: it must be there before launchd loads the job (it is the job's working directory), and belongs to
#                    a user who is made only later, hence numbers for owners. A marker in it says that it was made here
#   postActivation   lets the program make its keys, as that user, and sees to it that launchd has the job
#
# Disabled: nix-darwin unloads the jobs, and removes files in /etc, user and group. The rest is removed last.
#
# The rule: root changes and deletes nothing below `workingDirectory` without the marker, and deletes by name only.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.darwin-vz;
  names = import ./names.nix { inherit cfg; };
  program = "${cfg.package}/bin/darwin-vz-nix --config ${cfg.configFile}";
  owner = "${toString cfg.uid}:${toString cfg.gid}";
in
{
  config = lib.mkMerge [
    (lib.mkIf cfg.enable {
      system.activationScripts.preActivation.text = ''
        # darwin-vz-nix: nothing of somebody else's is taken over
        if [ ! -e ${names.marker} ] && [ -n "$(/bin/ls -A ${names.state} 2>/dev/null)" ]; then
          printf >&2 '\e[1;31merror: services.darwin-vz.workingDirectory is %s, which has something in it that is not of darwin-vz-nix, aborting activation\e[0m\n' ${names.state}
          printf >&2 'Name a directory that is empty or does not exist.\n'
          exit 2
        fi
      '';
      system.activationScripts.extraActivation.text = ''
        # darwin-vz-nix: the state directory, for its user alone
        /bin/mkdir -p ${names.state} ${names.home} ${names.marker}
        /bin/chmod 700 ${names.state}
        # As a whole only if the user has another number than before: what is in it is the user's, and need not be plain files.
        if [ "$(/usr/bin/stat -f %u:%g ${names.home})" != ${owner} ]; then
          /usr/sbin/chown -RP ${owner} ${names.state}
        fi
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
              # ssh refuses a key that others can read if it belongs to whoever uses it, and root uses this one, too. It is read as
              # its user, who could have put a link to something of root's there.
              (cd / && /usr/bin/sudo -u ${cfg.user} -- /bin/cat ${names.machineDir}/id_ed25519) | (umask 077 && /bin/cat >${names.userKey}.new)
              /usr/sbin/chown ${toString cfg.uid}:admin ${names.userKey}.new
              /bin/chmod 640 ${names.userKey}.new
              /bin/mv -f ${names.userKey}.new ${names.userKey}
            ''
          else
            ''
              /bin/rm -f ${names.userKey}
            ''
        }
        else
          printf >&2 '\e[1;31merror: the Linux builder has no keys, so ssh cannot reach it; see the message above\e[0m\n'
        fi

        # nix-darwin unloads a job that has changed and loads it anew at once, which fails while the old one stops its guest.
        darwinVzLoaded() {
          case "$(/bin/launchctl print system/${names.label} 2>/dev/null)" in
            *'${program}'*) return 0 ;;
            *) return 1 ;;
          esac
        }
        darwinVzTries=0
        until darwinVzLoaded; do
          if [ "$darwinVzTries" -ge ${toString (names.graceSeconds + 5)} ]; then
            printf >&2 '\e[1;31merror: launchd does not load the Linux builder; try: sudo launchctl bootstrap system %s\e[0m\n' ${names.plist}
            break
          fi
          [ "$darwinVzTries" != 1 ] || echo "waiting for the Linux builder to stop..." >&2
          /bin/launchctl bootstrap system ${names.plist} 2>/dev/null || /bin/sleep 1
          darwinVzTries=$((darwinVzTries + 1))
        done
      '';
    })
    (lib.mkIf (!cfg.enable) {
      system.activationScripts.postActivation.text = ''
        # darwin-vz-nix is disabled: nothing of it stays${lib.optionalString cfg.keepDisk " but the disk"}
        /bin/rm -f ${names.knownHosts} ${names.userKey}
        if [ -d ${names.public} ]; then /bin/rmdir ${names.public} 2>/dev/null || true; fi
        if [ -e ${names.marker} ]; then
          /bin/rm -rf ${lib.concatStringsSep " " names.contents}
      ''
      + (
        if cfg.keepDisk then
          ''
            if [ -e ${names.machines} ]; then
              /usr/bin/find ${names.machines} ! -name data.img ! -type d -delete
              # Not what it is called with: a Mac's find does not delete that.
              /usr/bin/find ${names.machines} -mindepth 1 -depth -type d -empty -delete
              /bin/rmdir ${names.machines} 2>/dev/null || true
            fi
            # With the disk, the marker stays.
            if [ ! -e ${names.machines} ]; then /bin/rmdir ${names.marker}; fi
          ''
        else
          ''
            /bin/rm -rf ${names.machines} ${names.marker}
          ''
      )
      + ''
          /bin/rmdir ${names.state} 2>/dev/null || true
        fi
      '';
    })
  ];
}
