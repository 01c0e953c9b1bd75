//! What a row of the table of settings becomes: its name among all `Key`s, its value in a `Layer`, in `Complete` and, for
//! those of a machine, in `MachineSettings`. The table is in `table.rs`.

/// Takes the table apart. All that it makes is in the module that has the table.
macro_rules! settings {
    (of the daemon { $($daemon:tt)* } of each machine { $($machine:tt)* }) => {
        every_setting! { $($daemon)* $($machine)* }
        settings_of_a_machine! { $($machine)* }
    };
}

/// What is made of every row.
macro_rules! every_setting {
    ($(
        $(#[$more:meta])*
        $key:ident $name:literal => $field:ident: $type:ident($plain:ty) {
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

            /// Every setting, in the order in which they are shown.
            pub const ALL: [Key; Key::COUNT] = [$(Key::$key),*];

            /// Its name in the file.
            pub fn name(self) -> &'static str {
                match self { $(Key::$key => $name,)* }
            }

            /// What it is, for the reference.
            pub fn about(self) -> &'static str {
                match self { $(Key::$key => $about,)* }
            }

            /// What it is, for the help of the command line.
            pub fn help(self) -> &'static str {
                match self { $(Key::$key => $help,)* }
            }

            /// What stands for its value there.
            pub fn placeholder(self) -> &'static str {
                match self { $(Key::$key => $placeholder,)* }
            }

            /// How its value is written, for the reference.
            pub fn form(self) -> &'static str {
                match self { $(Key::$key => <$type>::FORM,)* }
            }

            /// The values it can have, where they are few.
            pub fn choices(self) -> &'static [&'static str] {
                match self { $(Key::$key => <$type>::CHOICES,)* }
            }

            /// What its flag says without a value, if it can stand so.
            pub fn alone(self) -> Option<&'static str> {
                match self { $(Key::$key => <$type>::ALONE,)* }
            }

            /// The default where that depends on the host, for the reference.
            pub fn default_of_the_host(self) -> Option<&'static str> {
                let words: &[&'static str] = match self { $(Key::$key => &[$($words)?],)* };
                words.first().copied()
            }
        }

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

        impl Complete {
            /// What holds where nobody says otherwise.
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

/// What is made of the rows of a machine besides.
macro_rules! settings_of_a_machine {
    ($(
        $(#[$more:meta])*
        $key:ident $name:literal => $field:ident: $type:ident($plain:ty) {
            about: $about:literal,
            $($rest:tt)*
        }
    )*) => {
        impl Key {
            /// Each machine may have its own; the others belong to the daemon.
            pub fn of_a_machine(self) -> bool {
                matches!(self, $(Key::$key)|*)
            }
        }

        /// One machine's settings.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct MachineSettings {
            $(#[doc = concat!($about, ".")] $(#[$more])* pub $field: $plain,)*
        }

        impl From<Complete> for MachineSettings {
            fn from(complete: Complete) -> MachineSettings {
                MachineSettings { $($field: complete.$field.value.0,)* }
            }
        }
    };
}
