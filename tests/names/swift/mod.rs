//! The subset of Swift that extracting names needs: tokens, declarations, uses. Not a compiler: `swiftc` with the
//! stand-in refuses what this accepts by mistake.

pub mod declarations;
pub mod lexer;
pub mod uses;
