# How the module sets options that are not its own.
#
# `yielding` is for what a user may want otherwise: it gives way to a plain definition, and to none with `mkDefault`, as another
# module's default must not switch the builder off. What cannot be otherwise is defined plainly, and assertions.nix has words for
# a second definition, which the module system would only call conflicting.
{ lib }:
{
  yielding = lib.mkOverride 900;
}
