# The module's own activation steps. nix-darwin runs `preActivation`, `extraActivation` and `postActivation`, and silently
# drops a script of any other name.
#
#   preActivation    refuses a state directory that is not empty and was not made by this module, before anything changes
#   extraActivation  makes it: it must exist before launchd loads the job (it is the job's working directory), and belongs
#                    to a user that is created later, hence numeric owners. A marker in it says that this module made it
#   postActivation   lets the program make its keys, as that user, and ensures that launchd has loaded the job
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
        # darwin-vz-nix: refuse a directory with foreign contents
        if [ ! -e ${names.marker} ] && [ -n "$(/bin/ls -A ${names.state} 2>/dev/null)" ]; then
          printf >&2 '\e[1;31merror: services.darwin-vz.workingDirectory is %s, which contains files that darwin-vz-nix did not make, aborting activation\e[0m\n' ${names.state}
          printf >&2 'Name a directory that is empty or does not exist.\n'
          exit 2
        fi
      '';
      system.activationScripts.extraActivation.text = ''
        # darwin-vz-nix: the state directory, for its user alone
        /bin/mkdir -p ${names.state} ${names.home} ${names.marker}
        /bin/chmod 700 ${names.state}
        # Recursively only if the user's number has changed: the user owns the contents, which need not be plain files.
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
              # ssh refuses a key that other users can read if it belongs to the user who runs ssh, and root uses this one, too. It
              # is read as its user, who could have replaced it by a link to a file of root's.
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

        # nix-darwin unloads a changed job and loads the new one at once, which fails while the old one stops its guest.
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
        # darwin-vz-nix is disabled: everything is removed${lib.optionalString cfg.keepDisk " except for the disk"}
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
              # Not the starting directory itself: a Mac's find does not delete that.
              /usr/bin/find ${names.machines} -mindepth 1 -depth -type d -empty -delete
              /bin/rmdir ${names.machines} 2>/dev/null || true
            fi
            # While the disk is kept, so is the marker.
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
