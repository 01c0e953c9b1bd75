//! One source's settings, some of them missing, and how sources are laid over each other.

use super::{
    key::{Key, Origin, Sourced},
    value::{
        AbsolutePath, Accelerator, Base, Cores, Idle, Limit, Listen, LogLevel, MaybeLimit, MaybeListen, MaybePath, Raw,
        Recipe, Runner, Setting, Size, Switch,
    },
};

macro_rules! settings {
    ($($field:ident: $type:ty = $key:ident),* $(,)?) => {
        /// What one source says. Of two layers, the upper one's values win.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Layer {
            $(#[doc = concat!("[`Key::", stringify!($key), "`]")] pub $field: Option<Sourced<$type>>,)*
        }

        impl Layer {
            /// Reads one value. The error says what would be right.
            pub fn set(&mut self, key: Key, raw: &Raw, origin: Origin, base: &Base) -> Result<(), String> {
                match key {
                    $(Key::$key => self.$field = Some(Sourced { value: <$type>::read(raw, base)?, origin }),)*
                }
                Ok(())
            }

            /// Lays this layer over `under`.
            #[must_use]
            pub fn over(&self, under: &Layer) -> Layer {
                Layer { $($field: self.$field.clone().or_else(|| under.$field.clone()),)* }
            }

            /// Fills what is missing.
            pub fn complete(&self, defaults: Complete) -> Complete {
                Complete { $($field: self.$field.clone().unwrap_or(defaults.$field),)* }
            }

            /// Has no value at all.
            pub fn is_empty(&self) -> bool {
                *self == Layer::default()
            }
        }

        /// Every setting with the value that counts and where that came from.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Complete {
            $(#[doc = concat!("[`Key::", stringify!($key), "`]")] pub $field: Sourced<$type>,)*
        }

        impl Key {
            /// How its value is written, for the reference.
            pub fn form(self) -> &'static str {
                match self {
                    $(Key::$key => <$type>::FORM,)*
                }
            }
        }

        impl Complete {
            /// Each setting as text, with its origin, in the order of [`Key::ALL`].
            pub fn rows(&self) -> Vec<(Key, String, &Origin)> {
                vec![$((Key::$key, self.$field.value.to_string(), &self.$field.origin),)*]
            }
        }
    };
}

settings! {
    state_dir: AbsolutePath = StateDir,
    log_level: LogLevel = LogLevel,
    api_listen: MaybeListen = ApiListen,
    cores: Cores = Cores,
    memory: Size = Memory,
    disk_size: Size = DiskSize,
    ephemeral: Switch = Ephemeral,
    idle_timeout: Idle = IdleTimeout,
    listen: Listen = Listen,
    bundle: MaybePath = Bundle,
    recipe: Recipe = Recipe,
    nix: MaybePath = Nix,
    rosetta: Switch = Rosetta,
    nested_virtualization: Switch = NestedVirtualization,
    share_store: Switch = ShareStore,
    store_dir: AbsolutePath = StoreDir,
    store_daemon: AbsolutePath = StoreDaemon,
    backend: Runner = Backend,
    accelerator: Accelerator = Accelerator,
    boot_timeout: Limit = BootTimeout,
    stop_grace: Limit = StopGrace,
    hang_timeout: MaybeLimit = HangTimeout,
}
