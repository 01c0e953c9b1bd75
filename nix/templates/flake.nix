{
  description = "Flakes to begin with";

  # A separate flake without inputs: `nix flake init` fetches all inputs of a template's flake, and no template needs
  # the repository's.
  outputs = _: {
    templates.default = {
      path = ./mac;
      description = "A Mac with a Linux builder: nix-darwin and darwin-vz-nix, and nothing else";
    };
  };
}
