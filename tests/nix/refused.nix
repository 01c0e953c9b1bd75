# Configurations that must not pass, and a part of what the user is told. `throws` are refused by the module system itself.
let
  bundle = "/nix/store/00000000000000000000000000000000-bundle";
  with' = settings: [
    {
      services.darwin-vz = {
        enable = true;
        guestBundle = bundle;
      };
    }
    { services.darwin-vz = settings; }
  ];
  plain = modules: with' { } ++ modules;
in
{
  asserted = {
    intel-mac = {
      system = "x86_64-darwin";
      modules = with' { };
      says = "needs a Mac with Apple silicon; this system is x86_64-darwin";
    };
    rosetta-on-intel = {
      system = "x86_64-darwin";
      modules = with' { rosetta = true; };
      says = "Rosetta for Linux exists only on Apple silicon";
    };
    foreign-system-without-rosetta = {
      modules = with' { systems = [ "x86_64-linux" ]; };
      says = "only with services.darwin-vz.rosetta = true";
    };
    two-builders = {
      modules = plain [
        {
          nix.linux-builder = {
            enable = true;
            # Otherwise its whole guest would be evaluated, to ask it for these.
            systems = [ "aarch64-linux" ];
            maxJobs = 1;
          };
        }
      ];
      says = "Set nix.linux-builder.enable = false";
    };
    virby = {
      foreign = true;
      modules = plain [ { services.virby.enable = true; } ];
      says = "Another Linux builder";
    };
    nix-rosetta-builder = {
      foreign = true;
      modules = plain [ { nix-rosetta-builder.enable = true; } ];
      says = "Another Linux builder";
    };
    disk-without-unit = {
      modules = with' { diskSize = "100"; };
      says = "Give a whole number and M, G or T";
    };
    disk-with-fraction = {
      modules = with' { diskSize = "1.5T"; };
      says = "Give a whole number and M, G or T";
    };
    tiny-disk = {
      modules = with' { diskSize = "100M"; };
      says = "Give at least 1G";
    };
    huge-disk = {
      modules = with' { diskSize = "65T"; };
      says = "at most 64T";
    };
    tiny-memory = {
      modules = with' { memory = 8; };
      says = "is 8, in MiB";
    };
    no-port = {
      modules = with' { port = 0; };
      says = "services.darwin-vz.port is 0";
    };
    api-for-other-computers = {
      modules = with' { apiListen = "0.0.0.0:31180"; };
      says = "Give a loopback address and a port";
    };
    api-without-a-port = {
      modules = with' { apiListen = "127.0.0.1"; };
      says = "Give a loopback address and a port";
    };
    api-port-out-of-range = {
      modules = with' { apiListen = "127.0.0.1:70000"; };
      says = "Give a loopback address and a port";
    };
    api-where-ssh-is = {
      modules = with' { apiListen = "127.0.0.1:31122"; };
      says = "where ssh reaches the guest";
    };
    legacy-protocol-at-the-direct-door = {
      modules = with' { protocol = "ssh"; };
      says = "services.darwin-vz.door = \"ssh\"";
    };
    kvm-without-nesting = {
      modules = with' { supportedFeatures = [ "kvm" ]; };
      says = "only with services.darwin-vz.nestedVirtualization = true";
    };
    long-directory = {
      modules = with' {
        workingDirectory = "/var/lib/a-name-so-long-that-the-paths-of-the-sockets-below-it-get-too-long";
      };
      says = "of at most";
    };
    shallow-directory = {
      modules = with' { workingDirectory = "/var"; };
      says = "two or more levels below /";
    };
    shallow-directory-of-a-disabled-service = {
      modules = [ { services.darwin-vz.workingDirectory = "/Users"; } ];
      says = "two or more levels below /";
    };
    crooked-directory = {
      modules = with' { workingDirectory = "/var/lib/../db"; };
      says = "without . and ..";
    };
  };

  throws = {
    misspelt-option = {
      modules = with' { idleTimeOut = 3; };
      says = "darwin-vz.idleTimeOut' does not exist";
    };
    text-for-a-number = {
      modules = with' { cores = "8"; };
      says = "services.darwin-vz.cores'";
    };
    no-cores = {
      modules = with' { cores = 0; };
      says = "services.darwin-vz.cores'";
    };
    port-out-of-range = {
      modules = with' { port = 70000; };
      says = "services.darwin-vz.port'";
    };
    unknown-door = {
      modules = with' { door = "window"; };
      says = "services.darwin-vz.door'";
    };
    human-user = {
      modules = with' { user = "alice"; };
      says = "services.darwin-vz.user'";
    };
    user-that-cannot-be-removed = {
      modules = with' { uid = 400; };
      says = "services.darwin-vz.uid'";
    };
    relative-directory = {
      modules = with' { workingDirectory = "lib/builder"; };
      says = "services.darwin-vz.workingDirectory'";
    };
    directory-for-a-shell = {
      modules = with' { workingDirectory = "/var/lib/$(reboot)"; };
      says = "services.darwin-vz.workingDirectory'";
    };
  };
}
