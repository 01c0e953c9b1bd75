//! SSH identities: the key with which this host logs in, the guest's pinned host key, and what ssh and Nix need to use them.
pub mod block;
pub mod keys;
