# A small stand-in for the part of nixpkgs' `lib` that this project's modules use, for tests on
# machines without nixpkgs. Written from the documented behaviour; the same tests run against the real lib.
let
  inherit (builtins)
    all
    any
    attrNames
    concatLists
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    functionArgs
    genList
    head
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    map
    mapAttrs
    match
    removeAttrs
    replaceStrings
    sort
    stringLength
    substring
    tail
    toString
    ;
  isType = t: v: isAttrs v && (v._type or null) == t;
  mark = _type: rest: { inherit _type; } // rest;
  show =
    loc:
    concatStringsSep "." (
      map (p: if match "[A-Za-z_][A-Za-z0-9_'-]*" p != null then p else "\"${p}\"") loc
    );
  fail = loc: msg: throw "option `${show loc}': ${msg}";
  at = d: "  - in ${toString d.file}";
  zip =
    f: sets: # like zipAttrsWith
    listToAttrs (
      map (n: {
        name = n;
        value = f n (concatLists (map (s: if s ? ${n} then [ s.${n} ] else [ ]) sets));
      }) (attrNames (foldl' (a: b: a // b) { } sets))
    );

  # --- properties -----------------------------------------------------------------------------
  mkOption = mark "option";
  mkIf = condition: content: mark "if" { inherit condition content; };
  mkMerge = contents: mark "merge" { inherit contents; };
  mkOverride = priority: content: mark "override" { inherit priority content; };
  mkOrder = priority: content: mark "order" { inherit priority content; };
  # one definition -> the definitions left once if/merge are taken away
  discharge =
    d:
    let
      v = d.value;
      with' = x: discharge (d // { value = x; });
    in
    if isType "merge" v then
      concatLists (map with' v.contents)
    else if isType "if" v then
      (
        if !isBool v.condition then
          throw "mkIf: condition is no boolean (${toString d.file})"
        else if v.condition then
          with' v.content
        else
          [ ]
      )
    else if isType "override" v then
      map (x: x // { prio = v.priority; }) (with' v.content)
    else if isType "order" v then
      map (x: x // { order = v.priority; }) (with' v.content)
    else
      [ d ];
  # the same for a set of options: a condition goes down to each attribute, so that it is not asked too early
  push =
    d:
    let
      v = d.value;
      onto = f: map (x: x // { value = mapAttrs (_: f) x.value; }) (push (d // { value = v.content; }));
    in
    if isType "merge" v then
      concatLists (map (x: push (d // { value = x; })) v.contents)
    else if isType "if" v then
      onto (mkIf v.condition)
    else if isType "override" v then
      onto (mkOverride v.priority)
    else if isType "order" v then
      onto (mkOrder v.priority)
    else
      [ d ];
  winners =
    ds: # highest priority only, in order
    let
      p = d: d.prio or 100;
      best = foldl' (a: d: if p d < a then p d else a) 9999 ds;
    in
    sort (a: b: (a.order or 1000) < (b.order or 1000)) (filter (d: p d == best) ds);

  # --- types ----------------------------------------------------------------------------------
  one =
    loc: ds:
    if length ds == 1 then
      (head ds).value
    else
      fail loc "has conflicting definitions:\n${concatStringsSep "\n" (map at ds)}";
  equal = loc: ds: if all (d: d.value == (head ds).value) ds then (head ds).value else one loc ds;
  type =
    name: check: merge:
    mark "option-type" { inherit name check merge; };
  checked =
    t: loc: ds:
    let
      bad = filter (d: !(t.check d.value)) ds;
    in
    if bad != [ ] then
      fail loc "a definition is not of type `${t.name}':\n${concatStringsSep "\n" (map at bad)}"
    else
      t.merge loc ds;
  strLike = v: isString v || isPath v || (isAttrs v && (v ? outPath || v ? __toString));
  types = rec {
    raw = type "raw value" (_: true) one;
    anything = type "anything" (_: true) (
      loc: ds:
      if all (d: isAttrs d.value && !(d.value ? outPath)) ds && ds != [ ] then
        zip (n: vs: anything.merge (loc ++ [ n ]) vs) (
          map (d: mapAttrs (_: value: d // { inherit value; }) d.value) ds
        )
      else if all (d: isList d.value) ds then
        concatLists (map (d: d.value) ds)
      else
        equal loc ds
    );
    unspecified = anything;
    bool = type "boolean" isBool equal;
    int = type "signed integer" isInt equal;
    float = type "floating point number" isFloat equal;
    str = type "string" isString equal;
    nonEmptyStr = type "non-empty string" (v: isString v && match "[ \t\n]*" v == null) equal;
    singleLineStr = type "single-line string" (v: isString v && match "[^\n\r]*\n?" v != null) equal;
    strMatching =
      re: type "string matching the pattern ${re}" (v: isString v && match re v != null) equal;
    separatedString =
      sep:
      type "strings joined with ${builtins.toJSON sep}" isString (
        _: ds: concatStringsSep sep (map (d: d.value) ds)
      );
    lines = separatedString "\n";
    commas = separatedString ",";
    path = type "absolute path" (v: strLike v && substring 0 1 (toString v) == "/") equal;
    package = type "package" (v: isAttrs v && (v.type or "") == "derivation") one;
    port = ints.u16;
    attrs = type "attribute set" isAttrs (_: foldl' (a: d: a // d.value) { });
    enum = vs: type "one of ${concatStringsSep ", " (map builtins.toJSON vs)}" (v: elem v vs) equal;
    nullOr =
      t:
      type "null or ${t.name}" (v: v == null || t.check v) (
        loc: ds:
        let
          some = filter (d: d.value != null) ds;
        in
        if some == [ ] then
          null
        else if length some != length ds then
          fail loc "is both null and not null"
        else
          checked t loc some
      )
      // {
        inherit (t) getSub;
        elem = t;
      };
    either =
      a: b:
      type "${a.name} or ${b.name}" (v: a.check v || b.check v) (
        loc: ds:
        if all (d: a.check d.value) ds then
          a.merge loc ds
        else if all (d: b.check d.value) ds then
          b.merge loc ds
        else
          equal loc ds
      );
    oneOf = ts: foldl' either (head ts) (tail ts);
    coercedTo =
      from: f: to:
      type "${to.name} or ${from.name} turned into it" (v: from.check v || to.check v) (
        loc: ds:
        checked to loc (map (d: d // { value = if from.check d.value then f d.value else d.value; }) ds)
      );
    listOf =
      t:
      type "list of ${t.name}" isList (
        loc: ds:
        concatLists (
          map (
            d:
            genList (i: eval1 (loc ++ [ "[${toString i}]" ]) t [ (d // { value = elemAt d.value i; }) ]) (
              length d.value
            )
          ) ds
        )
      );
    attrsOf =
      t:
      type "attribute set of ${t.name}" isAttrs (
        loc: ds:
        let
          all' = zip (_: v: v) (map (d: mapAttrs (_: value: discharge (d // { inherit value; })) d.value) ds);
          live = zip (_: head) [ (mapAttrs (_: concatLists) all') ];
          kept = filter (n: live.${n} != [ ]) (attrNames live);
        in
        listToAttrs (
          map (n: {
            name = n;
            value = checked t (loc ++ [ n ]) (winners live.${n});
          }) kept
        )
      );
    lazyAttrsOf = attrsOf;
    deferredModule = type "module" (v: isAttrs v || isFunction v || isPath v) (
      _: ds: { imports = map (d: d.value) ds; }
    );
    submodule = m: submoduleWith { modules = if isList m then m else [ m ]; };
    submoduleWith =
      {
        modules,
        specialArgs ? { },
        ...
      }:
      type "submodule" (v: isAttrs v || isFunction v || isPath v) (
        loc: ds:
        (evalModules {
          inherit specialArgs;
          prefix = loc;
          modules =
            modules
            ++ [ { _module.args.name = elemAt loc (length loc - 1); } ]
            ++ map (
              d:
              if isAttrs d.value then
                {
                  _file = d.file;
                  config = d.value;
                }
              else
                d.value
            ) ds;
        }).config
      );
    ints = {
      positive = type "positive integer, meaning >0" (v: isInt v && v > 0) equal;
      unsigned = type "unsigned integer, meaning >=0" (v: isInt v && v >= 0) equal;
      between =
        lo: hi:
        type "integer between ${toString lo} and ${toString hi} (both inclusive)" (
          v: isInt v && v >= lo && v <= hi
        ) equal;
      u8 = ints.between 0 255;
      u16 = ints.between 0 65535;
      u32 = ints.between 0 4294967295;
    };
  };
  eval1 =
    loc: t: ds:
    checked t loc (winners (concatLists (map discharge ds)));

  # --- modules --------------------------------------------------------------------------------
  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      call =
        f:
        let
          want = functionArgs f;
          given = {
            inherit lib config options;
          }
          // specialArgs;
        in
        f (
          given
          // mapAttrs (
            n: _: given.${n} or (config._module.args.${n} or (throw "module argument `${n}' is not set"))
          ) want
        );
      load =
        file: m:
        if isPath m || (isString m) then
          load m (import m)
        else if isFunction m then
          load file (call m)
        else
          let
            f = m._file or file;
            plain = !(m ? options || m ? config);
            extra = removeAttrs m [
              "_file"
              "key"
              "imports"
              "options"
              "config"
              "meta"
              "freeformType"
              "_class"
              "disabledModules"
            ];
          in
          if !plain && extra != { } then
            throw "module ${toString f}: `${head (attrNames extra)}' must go under `config'"
          else
            concatLists (map (load f) (m.imports or [ ]))
            ++ [
              {
                file = f;
                options = m.options or { };
                config = if plain then extra else m.config or { };
              }
            ];
      loaded = concatLists (
        map (load "<test>") (
          [
            {
              options._module.args = mkOption {
                type = types.attrsOf types.raw;
                default = { };
              };
            }
          ]
          ++ modules
        )
      );
      declared =
        merge: sets:
        zip (
          _: vs:
          if any (isType "option") vs then
            (if length vs == 1 then head vs else merge vs)
          else
            declared merge vs
        ) sets;
      decls = declared (vs: foldl' (a: b: a // b) { } vs) (map (m: m.options) loaded);
      # a level of the tree: options below, definitions above
      level =
        loc: opts: defs:
        let
          parts = concatLists (map push defs);
          bad = filter (d: !isAttrs d.value) parts;
          byName = zip (_: v: v) (map (d: mapAttrs (_: value: d // { inherit value; }) d.value) parts);
          unknown = filter (n: !(opts ? ${n})) (attrNames byName);
          known = mapAttrs (
            n: o:
            let
              l = loc ++ [ n ];
              ds = byName.${n} or [ ];
            in
            if isType "option" o then value (prefix ++ l) o ds else level l o ds
          ) opts;
        in
        if bad != [ ] then
          fail (prefix ++ loc)
            "is a set of options, but a definition is no attribute set:\n${concatStringsSep "\n" (map at bad)}"
        else if unknown != [ ] then
          throw "The option `${show (prefix ++ loc ++ [ (head unknown) ])}' does not exist. Definitions:\n${
            concatStringsSep "\n" (map at byName.${head unknown})
          }"
        else
          known;
      value =
        loc: o: ds:
        let
          t = o.type or types.anything;
          given = concatLists (map discharge ds);
          withDefault =
            given
            ++ (
              if o ? default then
                [
                  {
                    file = "<default>";
                    value = o.default;
                    prio = 1500;
                  }
                ]
              else
                [ ]
            );
          live = concatLists (map discharge withDefault);
          v =
            if live == [ ] then
              (
                if
                  t.name == "submodule"
                  || match "(attribute set|list) of.*" t.name != null
                  || t.name == "attribute set"
                then
                  checked t loc [ ]
                else
                  throw "The option `${show loc}' was accessed but has no value defined."
              )
            else if given != [ ] && (o.readOnly or false) && length given > 1 then
              fail loc "is read-only, but set several times"
            else
              checked t loc (winners live);
        in
        if o ? apply then o.apply v else v;
      tree = level [ ] decls (
        map (m: {
          inherit (m) file;
          value = m.config;
        }) loaded
      );
      config = tree;
      options = decls;
    in
    {
      inherit options;
      config = removeAttrs tree [ "_module" ];
    };

  lib = builtins // rec {
    inherit
      types
      evalModules
      mkOption
      mkIf
      mkMerge
      mkOverride
      mkOrder
      isType
      ;
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    mkOptionDefault = mkOverride 1500;
    mkBefore = mkOrder 500;
    mkAfter = mkOrder 1500;
    mkEnableOption =
      what:
      mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether to enable ${what}.";
      };
    mkPackageOption =
      pkgs: name:
      {
        default ? name,
        ...
      }:
      mkOption (
        { type = types.package; } // (if default == null then { } else { default = pkgs.${name}; })
      );
    literalExpression = text: mark "literalExpression" { inherit text; };
    literalMD = literalExpression;
    optional = c: x: if c then [ x ] else [ ];
    optionals = c: xs: if c then xs else [ ];
    optionalString = c: s: if c then s else "";
    optionalAttrs = c: a: if c then a else { };
    concatMapStringsSep =
      sep: f: xs:
      concatStringsSep sep (map f xs);
    concatMapStrings = concatMapStringsSep "";
    concatLines = xs: concatMapStrings (x: x + "\n") xs;
    concatMap = builtins.concatMap;
    mapAttrsToList = f: a: map (n: f n a.${n}) (attrNames a);
    mapAttrsRecursive =
      f:
      let
        at = path: mapAttrs (n: v: if isAttrs v then at (path ++ [ n ]) v else f (path ++ [ n ]) v);
      in
      at [ ];
    filterAttrs =
      p: a:
      listToAttrs (
        map (n: {
          name = n;
          value = a.${n};
        }) (filter (n: p n a.${n}) (attrNames a))
      );
    genAttrs =
      ns: f:
      listToAttrs (
        map (n: {
          name = n;
          value = f n;
        }) ns
      );
    nameValuePair = name: value: { inherit name value; };
    hasInfix =
      p: s:
      length (
        builtins.split (replaceStrings
          [
            "\\"
            "."
            "*"
            "+"
            "?"
            "("
            ")"
            "["
            "]"
            "{"
            "}"
            "^"
            "$"
            "|"
          ]
          [
            "\\\\"
            "\\."
            "\\*"
            "\\+"
            "\\?"
            "\\("
            "\\)"
            "\\["
            "\\]"
            "\\{"
            "\\}"
            "\\^"
            "\\$"
            "\\|"
          ]
          p
        ) s
      ) > 1;
    toInt = builtins.fromJSON;
    toUpper =
      let
        letters = text: filter (c: isString c && c != "") (builtins.split "" text);
      in
      replaceStrings (letters "abcdefghijklmnopqrstuvwxyz") (letters "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    concatStrings = concatStringsSep "";
    range = first: last: genList (n: first + n) (last - first + 1);
    splitString = sep: s: filter isString (builtins.split (replaceStrings [ "." ] [ "\\." ] sep) s);
    removePrefix = p: s: if hasPrefix p s then substring (stringLength p) (-1) s else s;
    trim = s: head (match "[[:space:]]*(.*[^[:space:]])[[:space:]]*" s);
    hasPrefix = p: s: substring 0 (stringLength p) s == p;
    hasSuffix =
      p: s: stringLength s >= stringLength p && substring (stringLength s - stringLength p) (-1) s == p;
    escapeShellArg =
      x:
      let
        s = toString x;
      in
      if match "[[:alnum:],._+:@%/-]+" s != null then s else "'${replaceStrings [ "'" ] [ "'\\''" ] s}'";
    escapeShellArgs = concatMapStringsSep " " escapeShellArg;
    boolToString = b: if b then "true" else "false";
    getBin = p: p;
    trivial.release = "26.11";
    getExe' = p: n: "${p}/bin/${n}";
    getExe = p: getExe' p (p.meta.mainProgram or p.pname or p.name);
    platforms = {
      darwin = [
        "aarch64-darwin"
        "x86_64-darwin"
      ];
      linux = [
        "aarch64-linux"
        "x86_64-linux"
      ];
    };
    licenses = genAttrs [ "mit" "asl20" "gpl3Plus" ] (n: {
      shortName = n;
    });
  };
in
lib
