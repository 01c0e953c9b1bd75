# How the module sets options that it does not own.
#
# `yielding` is for values that a user may override: a plain definition wins over it, but `mkDefault` does not, as
# another module's default must not switch the builder off. Values that must not differ are defined plainly, and
# undisputed.nix explains a second definition, which the module system would only call conflicting.
{ lib }:
{
  yielding = lib.mkOverride 900;
}
