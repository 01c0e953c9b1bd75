//! As much of Swift as telling names takes: tokens, declarations, uses. Not a compiler: what this lets through by
//! mistake, `swiftc` against the stand-in refuses.

pub mod declarations;
pub mod lexer;
pub mod uses;
