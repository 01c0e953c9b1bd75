{
  description = "Flakes to begin with";

  # A flake of its own, without inputs: `nix flake init` fetches all inputs of the flake that a template is in, and no template
  # needs the repository's.
  outputs = _: {
    templates.default = {
      path = ./mac;
      description = "A Mac with a Linux builder: nix-darwin and darwin-vz-nix, and nothing else";
    };
  };
}
