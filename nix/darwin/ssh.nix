# ssh's configuration for the machine. It is the block that the program prints (rust/guest/src/ssh/block.rs explains
# it); a test compares them.
{ config, lib, ... }:
let
  cfg = config.services.darwin-vz;
  names = import ./names.nix { inherit cfg; };
in
{
  config.environment.etc = lib.mkIf cfg.enable {
    ${names.sshConfig}.text = ''
      Host ${names.alias}
        HostName 127.0.0.1
        Port ${toString cfg.port}
        User builder
        IdentityFile ${if cfg.allowUserSsh then names.userKey else "${names.machineDir}/id_ed25519"}
        UserKnownHostsFile ${names.knownHosts}
        HostKeyAlias ${names.alias}
        BindAddress 127.0.0.1
        ConnectTimeout ${toString names.connectTimeoutSeconds}
        AddressFamily any
        CanonicalizeHostname no
        ProxyCommand none
        GlobalKnownHostsFile /dev/null
        StrictHostKeyChecking yes
        CheckHostIP no
        KnownHostsCommand none
        NoHostAuthenticationForLocalhost no
        RevokedHostKeys none
        UpdateHostKeys no
        VerifyHostKeyDNS no
        IdentitiesOnly yes
        IdentityAgent none
        PKCS11Provider none
        PubkeyAuthentication yes
        PreferredAuthentications publickey
        BatchMode yes
        ControlMaster no
        ControlPath none
        ControlPersist no
        ForkAfterAuthentication no
        RemoteCommand none
        RequestTTY auto
        SessionType default
        StdinNull no
        PermitLocalCommand no
        ClearAllForwardings yes
        ForwardAgent no
        ForwardX11 no
        Tunnel no
        ServerAliveInterval 0
        ServerAliveCountMax 3
        ConnectionAttempts 1
        RekeyLimit default 1d
        Compression no
        LogLevel INFO
        HostKeyAlgorithms ssh-ed25519
        PubkeyAcceptedAlgorithms ssh-ed25519
        Ciphers +aes128-ctr
        KexAlgorithms +curve25519-sha256
        MACs +hmac-sha2-256
    '';
  };
}
