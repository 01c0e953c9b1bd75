# `services.darwin-vz`: the builder as a service of a Mac, for nix-darwin.
#
#   options.nix      the options                               ──▶ docs/module-options.md
#   settings.nix     the options as the program's own settings ──▶ /etc/darwin-vz-nix/config.toml
#   service.nix      launchd jobs, their user, their log
#   builder.nix      registers the machine with Nix
#   ssh.nix          ssh's configuration for the machine
#   state.nix        files that activation makes, and removes once the service is disabled
#   assertions.nix   settings that cannot work, reported before anything is built
#   undisputed.nix   the same for options of other modules, which the user sets, too
#   yielding.nix     how the module sets options that others may override
#
# The rule: the Mac's system depends on no Linux output that is missing from the public cache, so it can be built before
# any builder runs. It contains a guest with `extraNixOSConfig` only as a recipe.
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
