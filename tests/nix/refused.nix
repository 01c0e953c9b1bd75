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
    port-of-this-macs-sshd = {
      modules = with' { port = 22; };
      says = "where this Mac's own ssh server listens";
    };
    port-of-the-system = {
      modules = with' { port = 1023; };
      says = "a free port from 1024 up";
    };
    api-port-of-the-system = {
      modules = with' { apiListen = "[::1]:80"; };
      says = "Give a port from 1024 up";
    };
    api-with-the-port-of-ssh = {
      modules = with' {
        port = 31180;
        apiListen = "[::1]:31180";
      };
      says = "with the port where ssh reaches the guest";
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
    no-distributed-builds = {
      modules = plain [ { nix.distributedBuilds = false; } ];
      says = "nix.distributedBuilds is false";
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
    relative-directory = {
      modules = with' { workingDirectory = "lib/builder"; };
      says = "two or more levels below /";
    };
    unreadable-directory-of-a-disabled-service = {
      modules = [ { services.darwin-vz.workingDirectory = "/var/lib/a;b"; } ];
      says = "Give a directory whose path has letters of ASCII, digits";
    };
  }
  //
    # Characters that the program refuses in a state directory (rust/host/src/naming.rs), and some that only it could do with.
    builtins.mapAttrs
      (_: text: {
        modules = with' { workingDirectory = "/var/lib/${text}"; };
        says = "services.darwin-vz.workingDirectory is \"/var/lib/${text}\". Give a directory whose path has letters of ASCII, digits";
      })
      {
        directory-with-a-blank = "linux builder";
        directory-with-a-percent-sign = "100%d";
        directory-with-a-semicolon = "a;b";
        directory-with-a-hash = "a#b";
        directory-with-a-variable = "$HOME";
        directory-with-a-command = "$(reboot)";
        directory-with-a-quote = "it's";
        directory-with-a-backslash = "a\\b";
        directory-with-a-question-mark = "a?b";
        directory-with-two-lines = "a\nb";
        directory-with-a-tilde = "~ada";
        directory-with-an-accent = "bâtisseur";
      }
  # What the module sets elsewhere and a user sets, too: never the module system's own words, which name files of the module's.
  //
    builtins.mapAttrs
      (name: case: {
        modules = (if name == "start-that-is-for-once" then with' { onDemand = false; } else with' { }) ++ [
          case.module
        ];
        inherit (case) says;
      })
      {
        another-user-number = {
          module.users.users._darwin-vz.uid = 4000;
          says = "Set services.darwin-vz.uid instead";
        };
        another-group-of-the-user = {
          module.users.users._darwin-vz.gid = 20;
          says = "Set services.darwin-vz.gid instead";
        };
        another-group-number = {
          module.users.groups._darwin-vz.gid = 4000;
          says = "Set services.darwin-vz.gid instead";
        };
        another-home = {
          module.users.users._darwin-vz.home = "/Users/builder";
          says = "Set services.darwin-vz.workingDirectory instead";
        };
        another-command = {
          module.launchd.daemons.darwin-vz.command = "/bin/true";
          says = "Set services.darwin-vz.package instead";
        };
        another-user-of-the-job = {
          module.launchd.daemons.darwin-vz.serviceConfig.UserName = "root";
          says = "Set services.darwin-vz.user instead";
        };
        another-group-of-the-job = {
          module.launchd.daemons.darwin-vz.serviceConfig.GroupName = "wheel";
          says = "Set services.darwin-vz.group instead";
        };
        another-directory-of-the-job = {
          module.launchd.daemons.darwin-vz.serviceConfig.WorkingDirectory = "/";
          says = "Set services.darwin-vz.workingDirectory instead";
        };
        job-that-runs-at-load = {
          module.launchd.daemons.darwin-vz.serviceConfig.RunAtLoad = true;
          says = "Set services.darwin-vz.onDemand instead";
        };
        job-with-another-label = {
          module.launchd.daemons.darwin-vz.serviceConfig.Label = "com.example.builder";
          says = "serviceConfig.Label is set, and services.darwin-vz sets it, too";
        };
        job-that-is-killed-early = {
          module.launchd.daemons.darwin-vz.serviceConfig.ExitTimeOut = 5;
          says = "serviceConfig.ExitTimeOut is set, and services.darwin-vz sets it, too";
        };
        job-whose-files-all-may-read = {
          module.launchd.daemons.darwin-vz.serviceConfig.Umask = 18;
          says = "serviceConfig.Umask is set, and services.darwin-vz sets it, too";
        };
        job-with-another-home = {
          module.launchd.daemons.darwin-vz.serviceConfig.EnvironmentVariables.HOME = "/";
          says = "EnvironmentVariables.HOME is set, and services.darwin-vz sets it, too";
        };
        job-with-another-port = {
          module.launchd.daemons.darwin-vz.serviceConfig.Sockets.Listeners.SockServiceName = "31200";
          says = "Set services.darwin-vz.port instead";
        };
        job-for-other-computers = {
          module.launchd.daemons.darwin-vz.serviceConfig.Sockets.Listeners.SockNodeName = "0.0.0.0";
          says = "SockNodeName is set, and services.darwin-vz sets it, too";
        };
        start-that-is-for-once = {
          module.launchd.daemons.darwin-vz-start.serviceConfig.RunAtLoad = false;
          says = "Set services.darwin-vz.onDemand instead";
        };
        another-file-of-settings = {
          module.environment.etc."darwin-vz-nix/config.toml".source = ./refused.nix;
          says = "Set options of services.darwin-vz instead";
        };
        another-file-for-ssh = {
          module.environment.etc."ssh/ssh_config.d/100-darwin-vz-nix.conf".source = ./refused.nix;
          says = "Put hosts of your own into another file";
        };
        another-file-of-machines = {
          module = {
            nix.enable = false;
            environment.etc."nix/machines".source = ./refused.nix;
          };
          says = "Add your own builders as its text";
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
    proxy-of-two-lines = {
      modules = with' { proxy.http = "http://a\nb=c"; };
      says = "services.darwin-vz.proxy.http'";
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
  };
}
