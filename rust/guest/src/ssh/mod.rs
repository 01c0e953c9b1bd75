//! SSH identities: the host's login key, the guest's pinned host key, and the configuration for ssh and Nix.
pub mod block;
pub mod keys;
