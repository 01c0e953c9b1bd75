//! A source's uses of Virtualization, and the macOS on which each is reachable.
//!
//! ```text
//!   if #available(macOS 14, *) { 14 } else { 13 }      guard #available(macOS 15, *) else { 13 }  15 …
//!   @available(macOS 14, *) func f(…) { 14 }
//! ```

use super::{
    declarations::labels,
    lexer::{Kind, Token},
};

/// A name in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The name.
    pub what: What,
    /// The macOS that is guaranteed there.
    pub since: u32,
    /// Line, from 1.
    pub line: usize,
}

/// A name in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// `VZError.Code.internalError`: names joined by dots.
    Path(Vec<String>),
    /// `VZSharedDirectory(url:readOnly:)`: the type, and its labels.
    Call(String, String),
    /// `.state`: a member of a value whose type only the compiler knows; or `state` in an extension of Apple's type.
    Member(String),
}

/// All uses, in order.
pub fn uses(tokens: &[Token], oldest: u32) -> Vec<Use> {
    let mut scopes = vec![oldest];
    // For each brace, whether it belongs to an extension of Apple's type.
    let mut extends = Vec::new();
    let (mut pending, mut guarded) = (None, Vec::new());
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        let here = pending.max(scopes.last().copied()).unwrap_or(oldest);
        match &token.kind {
            Kind::Mark('{') => {
                let outer = scopes.last().copied().unwrap_or(oldest);
                // The braces after a guard's `else` run on an older macOS.
                let after_else = at > 0 && tokens[at - 1].word() == Some("else");
                let guard = after_else.then(|| pending.take()).flatten();
                guarded.push(guard);
                extends.push(is_extension(tokens, at));
                scopes.push(pending.take().map_or(outer, |since| since.max(outer)));
            }
            Kind::Mark('}') => {
                scopes.pop();
                extends.pop();
                if let Some(Some(since)) = guarded.pop()
                    && let Some(scope) = scopes.last_mut()
                {
                    *scope = since.max(*scope);
                }
            }
            Kind::Word(word) if word == "available" && at > 0 && (tokens[at - 1].is('#') || tokens[at - 1].is('@')) => {
                pending = pending.max(version(tokens, at));
                at += 1;
            }
            Kind::Word(word) if word.starts_with("VZ") => {
                let mut path = vec![word.clone()];
                while tokens.get(at + 1).is_some_and(|t| t.is('.'))
                    && let Some(next) = tokens.get(at + 2).and_then(Token::word)
                {
                    path.push(next.to_owned());
                    at += 2;
                }
                if tokens.get(at + 1).is_some_and(|t| t.is('(')) {
                    let call = What::Call(path.join("."), labels(tokens, at + 1, false));
                    found.push(Use { what: call, since: here, line: token.line });
                } else {
                    found.push(Use { what: What::Path(path), since: here, line: token.line });
                }
            }
            Kind::Word(word) if at > 0 && tokens[at - 1].is('.') => {
                found.push(Use { what: What::Member(word.clone()), since: here, line: token.line });
            }
            Kind::Word(word) if extends.contains(&true) && !word.starts_with('$') && is_used(tokens, at) => {
                found.push(Use { what: What::Member(word.clone()), since: here, line: token.line });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Whether the brace at `at` opens `extension VZ…`.
fn is_extension(tokens: &[Token], at: usize) -> bool {
    let head = tokens[..at].iter().rposition(|token| token.first).unwrap_or(0);
    let words = tokens[head..at].windows(2);
    words
        .into_iter()
        .any(|pair| pair[0].word() == Some("extension") && pair[1].word().is_some_and(|name| name.starts_with("VZ")))
}

/// A word without a dot that is read, written or called, and not declared, a label or a keyword.
fn is_used(tokens: &[Token], at: usize) -> bool {
    const KEYWORDS: [&str; 10] = ["if", "else", "guard", "switch", "return", "let", "var", "in", "try", "await"];
    let keyword = |at: usize| tokens.get(at).and_then(Token::word).is_some_and(|word| KEYWORDS.contains(&word));
    let declared = at > 0 && tokens[at - 1].word().is_some_and(|word| ["let", "var", "func", "case"].contains(&word));
    let next = tokens.get(at + 1).is_some_and(|token| token.is('=') || token.is('.') || token.is('('));
    next && !declared && !keyword(at)
}

/// The macOS of the next `(macOS 14.0, *)`.
fn version(tokens: &[Token], at: usize) -> Option<u32> {
    let os = tokens.get(at + 2).and_then(Token::word)?;
    match tokens.get(at + 3).map(|token| &token.kind) {
        Some(Kind::Number(version)) if os == "macOS" => Some(*version),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lexer::tokens, *};

    fn since(source: &str) -> Vec<u32> {
        uses(&tokens(source), 13).iter().filter(|u| u.what != What::Member("x".to_owned())).map(|u| u.since).collect()
    }

    #[test]
    fn a_version_holds_in_the_braces_that_ask_for_it() {
        assert_eq!(
            since("VZA; if #available(macOS 14.0, *) { VZB; if a { VZC } } else { VZD }; VZE"),
            [13, 14, 14, 13, 13]
        );
        assert_eq!(since("{ guard #available(macOS 15, *), VZA.b else { VZC }; VZD }; VZE"), [15, 13, 15, 13]);
        assert_eq!(since("@available(macOS 14, *) func f(_ a: VZA) { VZB } func g() { VZC }"), [14, 14, 13]);
        assert_eq!(since("if #available(macOS 12, *) { VZA }"), [13]);
        assert_eq!(since("if #available(iOS 17, *) { VZA }"), [13]);
    }

    #[test]
    fn paths_calls_and_members() {
        let found = |source: &str| uses(&tokens(source), 13).into_iter().map(|u| u.what).collect::<Vec<_>>();
        let path = |names: &[&str]| What::Path(names.iter().map(|name| (*name).to_owned()).collect());
        let member = |name: &str| What::Member(name.to_owned());
        assert_eq!(found("let a: VZA? = VZB.c.d"), [path(&["VZA"]), path(&["VZB", "c", "d"])]);
        assert_eq!(found("VZA(x: f(1, 2), y)"), [What::Call("VZA".to_owned(), "x:_:".to_owned())]);
        assert_eq!(found("a.b(\"VZA\") // VZB"), [member("b")]);
        assert_eq!(found("extension VZA { func f() { b = 1; let c = 2; try d() } }")[1..], [member("b"), member("d")]);
    }
}
