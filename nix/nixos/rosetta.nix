# x86_64 programs through Rosetta, where the host offers it: the share `rosetta`.
#
# The interpreter is registered with the flags F, which opens it at once, so that it is available in builds' sandboxes,
# and C, as Apple requires. Since macOS 14 it also supports P, which passes the name by which a program was called; an
# older one would take that name for an argument. So the unit runs a real x86_64 program, under a name other than its
# file's, first with P and then without. Only if that works does it register x86_64-linux with Nix: a Rosetta that does
# not fit macOS or the processor would otherwise fail each build.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  mountPoint = "/run/rosetta";
  probe = "/run/darwin-vz-probe";
  binfmt = "/proc/sys/fs/binfmt_misc";
  # Static, and in the public cache. It contains only a shell, under a shell's name.
  shell = "${
    (import pkgs.path {
      system = "x86_64-linux";
      config = { };
    }).busybox-sandbox-shell
  }/bin/busybox";
  # An ELF for x86_64, executable or shared, of any ABI.
  magic = ''\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00'';
  mask = ''\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'';
in
{
  config = lib.mkIf pkgs.stdenv.hostPlatform.isAarch64 {
    boot.kernelModules = [ "binfmt_misc" ];
    nix.extraOptions = "!include /run/darwin-vz-nix.conf";

    systemd.services.darwin-vz-rosetta = {
      description = "Rosetta";
      wantedBy = [ "multi-user.target" ];
      before = [
        "nix-daemon.service"
        "darwin-vz-agent.service"
      ];
      after = [ "systemd-modules-load.service" ];
      path = [ pkgs.util-linux ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        StandardOutput = "journal+console";
      };
      script = ''
        mkdir -p ${mountPoint}
        mount -t virtiofs -o ro rosetta ${mountPoint} 2>/dev/null || exit 0 # the host does not offer it
        # NixOS has a unit for it only if it registers an interpreter itself.
        [ -e ${binfmt}/register ] || mount -t binfmt_misc binfmt_misc ${binfmt}
        mkdir -p ${probe}
        cp -f ${shell} ${probe}/sh
        # works FLAGS ANSWER: registers the interpreter, and asks a program for the name by which it was called, and a
        # product
        works() {
          [ ! -e ${binfmt}/rosetta ] || echo -1 >${binfmt}/rosetta
          printf '%s' ':rosetta:M::${magic}:${mask}:${mountPoint}/rosetta:'"$1" >${binfmt}/register
          case $(exec -a sh ${probe}/sh -c 'echo $0 $((6 * 7))') in $2) ;; *) return 1 ;; esac
        }
        if works POCF 'sh 42' || works OCF '* 42'; then
          echo 'extra-platforms = x86_64-linux' >/run/darwin-vz-nix.conf
        else
          echo "Rosetta does not run x86_64 programs, so this machine does not build for x86_64-linux"
        fi
      '';
    };
  };
}
