//! The operations of the worker protocol that the gate allows: an allow-list.
//!
//! For refused operations with a fixed request shape the shape is listed too, so that the connection stays in sync and
//! can serve the next request. Requests that carry files have no fixed shape; the connection is closed after them.

use Operation::{Allowed, Refused, Unknown};

/// Allowed operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// Is the path valid?
    IsValidPath,
    /// Which paths refer to it?
    Referrers,
    /// Hold it while this connection lasts.
    AddTempRoot,
    /// The client's settings. Read and ignored.
    SetOptions,
    /// All valid paths.
    AllValidPaths,
    /// Hash, size, references, signatures.
    PathInfo,
    /// Which path has this hash part?
    PathFromHashPart,
    /// Which of these are valid?
    ValidPaths,
    /// Which of these could be downloaded? None: the gate is not a substituter.
    SubstitutablePaths,
    /// Which derivations produce it?
    ValidDerivers,
    /// Which paths does this derivation produce?
    DerivationOutputMap,
    /// The output of a content-addressed derivation. Always unknown.
    Realisation,
}

/// One field of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number,
    /// A string.
    String,
    /// A list of strings.
    List,
    /// A list of pairs of strings.
    Map,
}

/// What to do with an operation number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Answer it.
    Allowed(Query),
    /// Refuse it.
    Refused {
        /// Nix's name for it.
        name: &'static str,
        /// The fields of its request, if they are fixed.
        body: Option<&'static [Field]>,
    },
    /// Not an operation of this protocol version.
    Unknown,
}

impl Operation {
    /// Looks up an operation by its number in protocol 1.35.
    pub fn of(number: u64) -> Operation {
        use Field::{List, Map, Number, String};
        let (name, body): (&'static str, Option<&'static [Field]>) = match number {
            1 => return Allowed(Query::IsValidPath),
            6 => return Allowed(Query::Referrers),
            7 => ("AddToStore", None),
            8 => ("AddTextToStore", None),
            9 => ("BuildPaths", Some(&[List, Number])),
            10 => ("EnsurePath", Some(&[String])),
            11 => return Allowed(Query::AddTempRoot),
            12 => ("AddIndirectRoot", Some(&[String])),
            13 => ("SyncWithGC", Some(&[])),
            14 => ("FindRoots", Some(&[])),
            18 => ("QueryDeriver", Some(&[String])),
            19 => return Allowed(Query::SetOptions),
            20 => ("CollectGarbage", Some(&[Number, List, Number, Number, Number, Number, Number])),
            21 => ("QuerySubstitutablePathInfo", Some(&[String])),
            22 => ("QueryDerivationOutputs", Some(&[String])),
            23 => return Allowed(Query::AllValidPaths),
            26 => return Allowed(Query::PathInfo),
            28 => ("QueryDerivationOutputNames", Some(&[String])),
            29 => return Allowed(Query::PathFromHashPart),
            30 => ("QuerySubstitutablePathInfos", Some(&[Map])),
            31 => return Allowed(Query::ValidPaths),
            32 => return Allowed(Query::SubstitutablePaths),
            33 => return Allowed(Query::ValidDerivers),
            34 => ("OptimiseStore", Some(&[])),
            35 => ("VerifyStore", Some(&[Number, Number])),
            36 => ("BuildDerivation", None),
            37 => ("AddSignatures", Some(&[String, List])),
            38 => ("NarFromPath", Some(&[String])),
            39 => ("AddToStoreNar", None),
            40 => ("QueryMissing", Some(&[List])),
            41 => return Allowed(Query::DerivationOutputMap),
            42 => ("RegisterDrvOutput", Some(&[String])),
            43 => return Allowed(Query::Realisation),
            44 => ("AddMultipleToStore", None),
            45 => ("AddBuildLog", None),
            46 => ("BuildPathsWithResults", Some(&[List, Number])),
            47 => ("AddPermRoot", Some(&[String, String])),
            _ => return Unknown,
        };
        Refused { name, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_queries_are_allowed() {
        let allowed: Vec<_> =
            (0..=1000).chain([u64::MAX]).filter(|&number| matches!(Operation::of(number), Allowed(_))).collect();
        assert_eq!(allowed, [1, 6, 11, 19, 23, 26, 29, 31, 32, 33, 41, 43]);
        let unknown: Vec<_> = (0..=48).filter(|&number| Operation::of(number) == Unknown).collect();
        assert_eq!(unknown, [0, 2, 3, 4, 5, 15, 16, 17, 24, 25, 27, 48]);
    }
}
