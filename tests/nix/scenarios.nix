# Configurations that work; each has a snapshot of all that it leads to (snapshots/NAME.json). `bundle` stands for a guest
# bundle, as the tests of the module need none.
let
  bundle = "/nix/store/00000000000000000000000000000000-bundle";
  enabled = {
    services.darwin-vz = {
      enable = true;
      guestBundle = bundle;
    };
  };
  with' = settings: {
    modules = [
      enabled
      { services.darwin-vz = settings; }
    ];
  };
in
{
  minimal = with' { };

  disabled.modules = [ ];
  disabled-without-disk.modules = [ { services.darwin-vz.keepDisk = false; } ];

  # FR-006 of the specification, as it stands there.
  specification = with' {
    cores = 8;
    memory = 8192;
    diskSize = "100G";
    rosetta = true;
    idleTimeout = 180;
  };

  everything = with' {
    cores = 6;
    memory = 16384;
    diskSize = "512G";
    idleTimeout = 0;
    port = 31200;
    shareHostStore = true;
    systems = [ "aarch64-linux" ];
    supportedFeatures = [ "big-parallel" ];
    maxJobs = 3;
    speedFactor = 5;
    user = "_linux";
    group = "_linux-builders";
    uid = 4000;
    gid = 4001;
    workingDirectory = "/opt/linux/builder";
    logLevel = "debug";
    allowUserSsh = true;
  };

  api-on-tcp = with' { apiListen = "[::1]:31180"; };

  ssh-door = with' { door = "ssh"; };
  legacy-protocol = with' {
    door = "ssh";
    protocol = "ssh";
  };

  always-on = with' {
    onDemand = false;
    idleTimeout = 30;
  };

  ephemeral = with' { ephemeral = true; };

  # The guests of this project, instead of the tests' own.
  base-guest.modules = [ { services.darwin-vz.enable = true; } ];
  nixos-guest.modules = [
    {
      services.darwin-vz = {
        enable = true;
        extraNixOSConfig = { };
      };
    }
  ];
  # Rosetta needs the NixOS guest, unless the user has one that registers it.
  rosetta.modules = [
    {
      services.darwin-vz = {
        enable = true;
        rosetta = true;
      };
    }
  ];
  # One is a file of the configuration; the guest cannot get at the others.
  certificates-of-the-mac.modules = [
    {
      services.darwin-vz = {
        enable = true;
        extraNixOSConfig = { };
        certificateFiles = [
          ../../LICENSE
          "/etc/company.pem"
          "${(import ./mini/pkgs.nix { }).package}/built.pem"
          "${(import ./mini/pkgs.nix { }).cacert}/etc/ssl/certs/ca-bundle.crt"
        ];
      };
    }
  ];
  nix-for-few.modules = [
    enabled
    {
      nix.settings.allowed-users = [ "@admin" ];
      services.darwin-vz.extraNixOSConfig = { };
    }
  ];
  own-first-guest = with' { extraNixOSConfig = { }; };

  virtual-machines = with' { nestedVirtualization = true; };

  # Determinate Nix: nix-darwin manages nothing of Nix.
  unmanaged-nix.modules = [
    enabled
    { nix.enable = false; }
  ];
  unmanaged-nix-ssh.modules = [
    enabled
    {
      nix.enable = false;
      services.darwin-vz.door = "ssh";
    }
  ];

  behind-a-proxy.modules = [
    enabled
    {
      nix.envVars = {
        http_proxy = "http://proxy.example:3128";
        https_proxy = "http://proxy.example:3128";
        no_proxy = "localhost";
      };
      security.pki.certificates = [ "-----BEGIN CERTIFICATE-----" ];
      services.darwin-vz.proxy.exceptions = "localhost,example";
    }
  ];
  # Both spellings count, the lower one first, and nothing is as good as not there.
  behind-a-proxy-in-capitals.modules = [
    enabled
    {
      nix.envVars = {
        HTTP_PROXY = "http://upper.example:3128";
        HTTPS_PROXY = "http://upper.example:3128";
        https_proxy = "http://lower.example:3128";
        ftp_proxy = "";
        FTP_PROXY = "http://ftp.example:3128";
        ALL_PROXY = "socks5h://all.example:1080";
        NO_PROXY = "localhost,.example";
      };
    }
  ];
  behind-a-proxy-on-the-mac.modules = [
    enabled
    {
      nix.envVars = {
        all_proxy = "http://user@127.0.0.1:3128";
        no_proxy = "localhost";
      };
      services.darwin-vz.proxy.https = "http://localhost.example:3128";
      services.darwin-vz.proxy.http = "";
    }
  ];

  # What the module sets outside of its own options and a user may want otherwise.
  own-choices.modules = [
    enabled
    {
      nix.settings.builders-use-substitutes = false;
      launchd.daemons.darwin-vz.serviceConfig = {
        ProcessType = "Background";
        StandardOutPath = "/var/log/builder.log";
        StandardErrorPath = "/var/log/builder.log";
        EnvironmentVariables.RUST_BACKTRACE = "1";
      };
      users.users._darwin-vz = {
        description = "Builder";
        isHidden = false;
        shell = "/bin/sh";
      };
      users.groups._darwin-vz.description = "Builders";
      environment.etc."newsyslog.d/darwin-vz-nix.conf".text = "# rotated elsewhere";
    }
    (
      { lib, ... }:
      {
        environment.etc."ssh/ssh_config.d/100-darwin-vz-nix.conf".text = lib.mkAfter "# more";
      }
    )
  ];
  # A default of another module's does not switch the builder off.
  others-defaults.modules = [
    enabled
    (
      { lib, ... }:
      {
        nix.distributedBuilds = lib.mkDefault false;
        nix.settings.builders-use-substitutes = lib.mkDefault false;
      }
    )
  ];
  own-machines-beside-ours.modules = [
    enabled
    { nix.enable = false; }
    (
      { lib, ... }:
      {
        environment.etc."nix/machines".text = lib.mkAfter "ssh://other i686-linux";
      }
    )
  ];
}
