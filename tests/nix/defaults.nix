# What `extraNixOSConfig` may change in the guest: all but the contract. The names of options are the stand-ins'; the values that a
# user gives are other ones than the guest's own. The result is a list of complaints.
{
  nixpkgs ? null,
}:
let
  guest = import ./guest.nix { inherit nixpkgs; };
  inherit (guest) lib;
  inherit (import ./guest.nix { }) evaluate;
  inherit (builtins)
    attrNames
    concatMap
    elem
    filter
    foldl'
    head
    isBool
    isInt
    isString
    map
    tail
    tryEval
    ;

  # Rules of docs/guest-contract.md: a user's other value is refused.
  contract = [
    "boot.initrd.compressor"
    "boot.initrd.systemd.enable"
    "boot.loader.grub.enable"
    "boot.tmp.useTmpfs"
    "networking.useDHCP"
    "networking.useNetworkd"
    "services.logind.settings.Login.HandlePowerKey"
    "services.openssh.enable"
    "users.allowNoPasswordLogin"
    "users.mutableUsers"
  ];
  # NixOS itself sets these, so a user must insist.
  insisted = [
    "environment.corePackages"
    "programs.less.enable"
    "security.pam.services.su.forwardXAuth"
    "system.fsPackages"
    "system.nssModules"
  ];
  # Not the guest's: it reads them, or NixOS makes them.
  foreign = [
    "_module.args"
    "system.boot.loader.initrdFile"
    "system.etc.overlay.enable"
    "systemd.package"
  ];
  # Within options of many parts.
  parts = [
    "boot.kernel.sysctl.kernel\\.panic"
    "nix.settings.fsync-metadata"
    "nix.settings.max-jobs"
    "nix.settings.max-silent-time"
    "nix.settings.min-free"
    "nix.settings.sandbox"
    "services.resolved.settings.Resolve.LLMNR"
    "services.resolved.settings.Resolve.MulticastDNS"
    "systemd.services.getty@.enable"
    "systemd.services.serial-getty@.enable"
  ];

  words =
    name:
    map (builtins.replaceStrings [ "\\" ] [ "." ]) (
      filter isString (builtins.split "\\." (builtins.replaceStrings [ "\\." ] [ "\\" ] name))
    );
  at = path: set: foldl' (set: name: set.${name}) set path;
  nest = path: value: if path == [ ] then value else { ${head path} = nest (tail path) value; };
  leaves =
    path: options:
    concatMap (
      name:
      let
        below = path ++ [ name ];
      in
      if options.${name} ? _type then [ below ] else leaves below options.${name}
    ) (attrNames options);
  text = builtins.concatStringsSep ".";

  own = (guest.evaluate [ ]).config;
  other =
    value:
    if isBool value then
      !value
    else if isInt value then
      value + 1
    else if value == "auto" then
      1
    else
      "other";
  # One value each. Several definitions of a list or a set are joined.
  single =
    path:
    let
      value = tryEval (at path own);
    in
    value.success && (isBool value.value || isInt value.value || isString value.value);
  lines = [ "nix.extraOptions" ];
  declared = filter (
    path:
    !elem (text path) (foreign ++ lines)
    && builtins.match "services\\.darwin-vz-guest\\..*" (text path) == null
  ) (leaves [ ] (evaluate [ ]).options);
  all = filter single (declared ++ map words parts);

  changed =
    (guest.evaluate (
      map (
        path:
        let
          value = other (at path own);
        in
        nest path (if elem (text path) insisted then lib.mkForce value else value)
      ) (filter (path: !elem (text path) contract) all)
    )).config;
  stubborn = filter (
    path: !elem (text path) contract && !(tryEval (at path changed == other (at path own))).value
  ) all;
  soft = filter (
    name:
    (tryEval (
      at (words name) (guest.evaluate [ (nest (words name) (other (at (words name) own))) ]).config
    )).success
  ) contract;
in
map (path: "${text path} cannot be changed by a user") stubborn
++ map (name: "${name} can be changed by a user, and is a rule of the contract") soft
++ (
  if builtins.length all < 40 then
    [ "only ${toString (builtins.length all)} options were tried" ]
  else
    [ ]
)
