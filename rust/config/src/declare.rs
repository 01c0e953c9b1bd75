//! The macros that expand the table of settings in `table.rs`: each row becomes a `Key`, a field of `Layer` and of
//! `Complete`, and for settings of a machine a field of one part of `MachineConfig`.

/// Splits the table. The generated items are in the module that has the table.
macro_rules! settings {
    (of the daemon { $($daemon:tt)* } of each machine { $($machine:tt)* }) => {
        every_setting! { $($daemon)* $($machine)* }
        settings_of_a_machine! { $($machine)* }
        parts_of_a_machine! { [] [] [] $($machine)* }
    };
}

/// The items for all settings.
macro_rules! every_setting {
    ($(
        $(#[$more:meta])*
        $key:ident $name:literal => $field:ident: $type:ident($plain:ty) $(of $part:ident)? {
            about: $about:literal,
            flag: $placeholder:literal, $help:literal,
            default: $default:expr,
            $(in_words: $words:literal,)?
        }
    )*) => {
        /// A setting. [`Key::name`] is its name in the file and, after `--`, as a flag.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key {
            $(#[doc = concat!("`", $name, "`")] $key,)*
        }

        impl Key {
            const COUNT: usize = [$(Key::$key),*].len();

            /// All settings, in display order.
            pub const ALL: [Key; Key::COUNT] = [$(Key::$key),*];

            /// The setting's name in the file.
            pub fn name(self) -> &'static str {
                match self { $(Key::$key => $name,)* }
            }

            /// The description for the reference.
            pub fn about(self) -> &'static str {
                match self { $(Key::$key => $about,)* }
            }

            /// The description for the command line's help.
            pub fn help(self) -> &'static str {
                match self { $(Key::$key => $help,)* }
            }

            /// The placeholder for its value in the help.
            pub fn placeholder(self) -> &'static str {
                match self { $(Key::$key => $placeholder,)* }
            }

            /// The format of its value, for the reference.
            pub fn form(self) -> &'static str {
                match self { $(Key::$key => <$type>::FORM,)* }
            }

            /// All possible values, if they are few.
            pub fn choices(self) -> &'static [&'static str] {
                match self { $(Key::$key => <$type>::CHOICES,)* }
            }

            /// The value of its flag without a value; `None` if the flag requires one.
            pub fn bare_flag(self) -> Option<&'static str> {
                match self { $(Key::$key => <$type>::BARE_FLAG,)* }
            }

            /// The default in words if it depends on the host, for the reference.
            pub fn default_of_the_host(self) -> Option<&'static str> {
                let words: &[&'static str] = match self { $(Key::$key => &[$($words)?],)* };
                words.first().copied()
            }
        }

        /// The values of one source. In a merge, the upper layer's values win.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Layer {
            $(#[doc = concat!("[`Key::", stringify!($key), "`]")] pub $field: Option<Sourced<$type>>,)*
        }

        impl Layer {
            /// Parses one value. The error says which values are valid.
            pub fn set(&mut self, key: Key, raw: &Raw, origin: Origin, base: &Base) -> Result<(), String> {
                match key {
                    $(Key::$key => self.$field = Some(Sourced { value: <$type>::read(raw, base)?, origin }),)*
                }
                Ok(())
            }

            /// Merges this layer over `under`.
            #[must_use]
            pub fn over(&self, under: &Layer) -> Layer {
                Layer { $($field: self.$field.clone().or_else(|| under.$field.clone()),)* }
            }

            /// Fills missing values with defaults.
            pub fn complete(&self, defaults: Complete) -> Complete {
                Complete { $($field: self.$field.clone().unwrap_or(defaults.$field),)* }
            }

            /// Whether it has no values.
            pub fn is_empty(&self) -> bool {
                *self == Layer::default()
            }
        }

        /// Every setting with its effective value and its origin.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Complete {
            $(#[doc = concat!("[`Key::", stringify!($key), "`]")] pub $field: Sourced<$type>,)*
        }

        impl Complete {
            /// The default values.
            pub(super) fn defaults(host: &HostFacts, state_dir: &Path) -> Complete {
                $(let $field: fn(&HostFacts, &Path) -> $type = $default;)*
                Complete { $($field: Sourced::default($field(host, state_dir)),)* }
            }

            /// Each setting as text, with its origin, in the order of [`Key::ALL`].
            pub fn rows(&self) -> Vec<(Key, String, &Origin)> {
                vec![$((Key::$key, self.$field.value.to_string(), &self.$field.origin),)*]
            }
        }
    };
}

/// The additional method of keys of a machine.
macro_rules! settings_of_a_machine {
    ($(
        $(#[$more:meta])*
        $key:ident $name:literal => $field:ident: $type:ident $plain:tt of $part:ident $body:tt
    )*) => {
        impl Key {
            /// Whether it is a setting of each machine. Other settings are the daemon's.
            pub fn of_a_machine(self) -> bool {
                matches!(self, $(Key::$key)|*)
            }
        }
    };
}

/// The parts of `MachineConfig`. Sorts the rows first, one at a time: the brackets have those of `hardware`, `lifecycle` and
/// `builder` so far.
macro_rules! parts_of_a_machine {
    ([$($hardware:tt)*] $lifecycle:tt $builder:tt
        $(#$more:tt)* $key:ident $name:literal => $field:ident: $type:ident $plain:tt of hardware $body:tt $($rest:tt)*
    ) => {
        parts_of_a_machine! { [$($hardware)* { $(#$more)* $field $plain $body }] $lifecycle $builder $($rest)* }
    };
    ($hardware:tt [$($lifecycle:tt)*] $builder:tt
        $(#$more:tt)* $key:ident $name:literal => $field:ident: $type:ident $plain:tt of lifecycle $body:tt $($rest:tt)*
    ) => {
        parts_of_a_machine! { $hardware [$($lifecycle)* { $(#$more)* $field $plain $body }] $builder $($rest)* }
    };
    ($hardware:tt $lifecycle:tt [$($builder:tt)*]
        $(#$more:tt)* $key:ident $name:literal => $field:ident: $type:ident $plain:tt of builder $body:tt $($rest:tt)*
    ) => {
        parts_of_a_machine! { $hardware $lifecycle [$($builder)* { $(#$more)* $field $plain $body }] $($rest)* }
    };
    ([$($hardware:tt)*] [$($lifecycle:tt)*] [$($builder:tt)*]) => {
        part_of_a_machine! {
            /// A machine's virtual hardware, and what runs it.
            HardwareConfig $($hardware)*
        }
        part_of_a_machine! {
            /// How long a machine's guest may take to boot, to answer and to stop, and how long it runs unused.
            #[derive(Copy)]
            LifecyclePolicy $($lifecycle)*
        }
        part_of_a_machine! {
            /// What a builder has beyond any other machine: its guest system, its data disk, the host's store and its SSH port.
            BuilderConfig $($builder)*
        }
    };
}

/// One part of `MachineConfig`.
macro_rules! part_of_a_machine {
    ($(#$about_part:tt)* $part:ident $({
        $(#$more:tt)* $field:ident ($plain:ty) { about: $about:literal, $($rest:tt)* }
    })*) => {
        $(#$about_part)*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $part {
            $(#[doc = concat!($about, ".")] $(#$more)* pub $field: $plain,)*
        }

        impl From<&Complete> for $part {
            fn from(complete: &Complete) -> $part {
                $part { $($field: complete.$field.value.0.clone(),)* }
            }
        }

        #[cfg(any(test, feature = "testing"))]
        impl $part {
            /// A sample for tests; see [`MachineConfig::sample`].
            pub fn sample() -> $part {
                $part::from(&Complete::sample())
            }
        }
    };
}
