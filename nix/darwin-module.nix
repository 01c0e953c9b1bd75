# `services.darwin-vz`: the builder as a service of a Mac, for nix-darwin.
#
#   options.nix      what a user can say                       ──▶ docs/module-options.md
#   settings.nix     the options as the program's own settings ──▶ /etc/darwin-vz-nix/config.toml
#   service.nix      launchd jobs, their user, their log
#   builder.nix      what Nix is told of the machine
#   ssh.nix          what ssh is told of it
#   state.nix        what activation makes, and what it takes away once the service is disabled
#   assertions.nix   what cannot work, said before anything is built
#   undisputed.nix   the same of options that are not the module's own, and that others set, too
#   yielding.nix     how it sets what others may set otherwise
#
# The rule: the Mac's system depends on no Linux output that a public cache doesn't have, so it can be built before any
# builder runs. A guest with `extraNixOSConfig` is in it as a recipe only.
{
  imports = [
    ./darwin/options.nix
    ./darwin/settings.nix
    ./darwin/service.nix
    ./darwin/builder.nix
    ./darwin/ssh.nix
    ./darwin/state.nix
    ./darwin/assertions.nix
    ./darwin/undisputed.nix
  ];
}
