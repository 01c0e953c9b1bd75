# `services.darwin-vz`: the builder as a service of a Mac, for nix-darwin.
#
#   options.nix      what a user can say                       ──▶ docs/module-options.md
#   settings.nix     the options as the program's own settings ──▶ /etc/darwin-vz-nix/config.toml
#   service.nix      launchd jobs, their user, their log
#   builder.nix      what Nix and ssh are told of the machine
#   state.nix        what activation makes, and what it takes away once the service is disabled
#   assertions.nix   what cannot work, said before anything is built
#
# The rule: the Mac's system depends on no Linux output that a public cache doesn't have, so it can be built before any
# builder runs. A guest with `extraNixOSConfig` is in it as a recipe only.
{
  imports = [
    ./darwin/options.nix
    ./darwin/settings.nix
    ./darwin/service.nix
    ./darwin/builder.nix
    ./darwin/state.nix
    ./darwin/assertions.nix
  ];
}
