# Generates the reference of the module's options, docs/module-options.md, from the options as the module declares them.
{ lib, options }:
let
  inherit (builtins) attrNames concatLists replaceStrings;
  isOption = value: (value._type or null) == "option";
  flatten =
    path: set:
    concatLists (
      map (
        name:
        let
          value = set.${name};
          here = path ++ [ name ];
        in
        if !isOption value then
          flatten here value
        else if value.internal or false then
          [ ]
        else
          [ (section (lib.concatStringsSep "." here) value) ]
      ) (attrNames set)
    );
  shown =
    value:
    if (value._type or null) == "literalExpression" then
      value.text
    else if builtins.isList value then
      "[ ${lib.concatStringsSep " " (map shown value)} ]"
    else
      builtins.toJSON value;
  field = name: value: if value == null then "" else "* ${name}: `${shown value}`\n";
  # Roles of nixpkgs' manuals.
  plain = replaceStrings [ "{option}`services.darwin-vz." "{option}" ] [ "`" "" ];
  section = name: option: ''

    ## ${lib.removePrefix "services.darwin-vz." name}

    ${plain (lib.trim option.description)}

    * type: ${option.type.name}
    ${field "default" (option.defaultText or option.default or null)}${
      if option ? default && (option.defaultText or option.default) == null then
        "* default: `null`\n"
      else
        ""
    }${field "example" (option.example or null)}'';
in
''
  # Options of services.darwin-vz

  Made from `nix/darwin/options.nix` by `tests/nix/check.sh --update`; do not edit.
''
+ lib.concatStringsSep "" (flatten [ "services" "darwin-vz" ] options)
