//! Declarations in a source.

use super::lexer::{Kind, Token, after_group};

/// A declared name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// The enclosing types, then its own name.
    pub path: Vec<String>,
    /// Its kind.
    pub what: What,
    /// `public` or `open`, directly or by the protocol or enum it is in.
    pub public: bool,
    /// Line, from 1.
    pub line: usize,
}

/// The kind of a declared name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A class, struct, enum, protocol or extension, and the types after its colon.
    Type {
        /// `class`, `extension`, …
        keyword: String,
        /// Super class and protocols.
        inherits: Vec<String>,
    },
    /// A function or initializer; its path ends in name and labels: `init(url:readOnly:)`.
    Function,
    /// A variable or constant.
    Property {
        /// Whether it has a public setter.
        settable: bool,
    },
    /// A case of an enum.
    Case {
        /// Its number, if any: as given, or the previous one plus one.
        value: i64,
    },
}

impl Declaration {
    /// The enclosing types, as `Outer.Inner`.
    pub fn owner(&self) -> String {
        self.path[..self.path.len() - 1].join(".")
    }

    /// Its own name, with labels.
    pub fn name(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }
}

/// All declarations outside of function bodies.
pub fn declarations(tokens: &[Token]) -> Vec<Declaration> {
    let mut reader = Reader { tokens, at: 0, found: Vec::new() };
    reader.members(&Scope { path: Vec::new(), public: false });
    reader.found
}

const TYPES: [&str; 6] = ["class", "struct", "enum", "protocol", "extension", "actor"];
const KEYWORDS: [&str; 10] =
    ["func", "init", "deinit", "var", "let", "case", "typealias", "associatedtype", "import", "subscript"];
const MODIFIERS: [&str; 19] = [
    "public",
    "open",
    "internal",
    "private",
    "fileprivate",
    "package",
    "static",
    "final",
    "override",
    "required",
    "convenience",
    "mutating",
    "nonmutating",
    "weak",
    "unowned",
    "lazy",
    "nonisolated",
    "indirect",
    "dynamic",
];

struct Scope {
    path: Vec<String>,
    /// Members are public implicitly.
    public: bool,
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    found: Vec<Declaration>,
}

impl Reader<'_> {
    fn word(&self, at: usize) -> Option<&str> {
        self.tokens.get(at).and_then(Token::word)
    }

    fn is(&self, at: usize, mark: char) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is(mark))
    }

    fn add(&mut self, scope: &Scope, name: String, what: What, public: bool, line: usize) {
        let path = scope.path.iter().cloned().chain([name]).collect();
        self.found.push(Declaration { path, what, public: public || scope.public, line });
    }

    /// Declarations up to the brace that ends the scope.
    fn members(&mut self, scope: &Scope) {
        let (mut public, mut private_set) = (false, false);
        while self.at < self.tokens.len() && !self.is(self.at, '}') {
            let token = &self.tokens[self.at];
            if token.is(';') {
                self.at += 1;
            } else if token.is('@') {
                self.at += 2;
                if self.is(self.at, '(') {
                    self.at = after_group(self.tokens, self.at);
                }
            } else if token.is('#') {
                // A conditional compilation: both branches count.
                let line = token.line;
                while self.tokens.get(self.at).is_some_and(|token| token.line == line) {
                    self.at += 1;
                }
            } else if token.is('{') || token.is('(') {
                self.at = after_group(self.tokens, self.at);
            } else {
                let word = token.word().unwrap_or_default().to_owned();
                let modifies =
                    word == "class" && self.word(self.at + 1).is_some_and(|w| ["var", "let", "func"].contains(&w));
                if MODIFIERS.contains(&word.as_str()) || modifies {
                    public |= word == "public" || word == "open";
                    self.at += 1;
                    if self.is(self.at, '(') {
                        private_set |= self.word(self.at + 1) == Some("set");
                        self.at = after_group(self.tokens, self.at);
                    }
                    continue;
                }
                self.declaration(&word, scope, public, private_set);
                (public, private_set) = (false, false);
            }
        }
        self.at += 1;
    }

    fn declaration(&mut self, keyword: &str, scope: &Scope, public: bool, private_set: bool) {
        match keyword {
            _ if TYPES.contains(&keyword) => self.a_type(keyword, scope, public),
            "func" | "init" | "subscript" => self.function(keyword, scope, public),
            "var" | "let" => self.properties(keyword, scope, public, private_set),
            "case" => self.cases(scope, public),
            _ => {
                self.at += 1;
                self.skip_rest();
            }
        }
    }

    fn a_type(&mut self, keyword: &str, scope: &Scope, public: bool) {
        let line = self.tokens[self.at].line;
        self.at += 1;
        let mut name = self.word(self.at).unwrap_or_default().to_owned();
        self.at += 1;
        while self.is(self.at, '.') {
            name = format!("{name}.{}", self.word(self.at + 1).unwrap_or_default());
            self.at += 2;
        }
        let mut inherits = Vec::new();
        while self.at < self.tokens.len() && !self.is(self.at, '{') {
            if self.word(self.at) == Some("where") {
                break;
            }
            inherits.extend(self.word(self.at).map(str::to_owned));
            self.at += 1;
        }
        while self.at < self.tokens.len() && !self.is(self.at, '{') {
            self.at += 1;
        }
        self.at += 1;
        let mut path = scope.path.clone();
        path.extend(name.split('.').map(str::to_owned));
        let public = public || scope.public;
        let what = What::Type { keyword: keyword.to_owned(), inherits };
        self.found.push(Declaration { path: path.clone(), what, public, line });
        let members_public = public && ["protocol", "extension"].contains(&keyword);
        self.members(&Scope { path, public: members_public });
    }

    fn function(&mut self, keyword: &str, scope: &Scope, public: bool) {
        let line = self.tokens[self.at].line;
        self.at += 1;
        let name = match keyword {
            "func" => {
                self.at += 1;
                self.word(self.at - 1).unwrap_or("operator").to_owned()
            }
            _ => keyword.to_owned(),
        };
        while self.at < self.tokens.len() && !self.is(self.at, '(') {
            self.at += 1;
        }
        let labels = labels(self.tokens, self.at, true);
        self.at = after_group(self.tokens, self.at);
        self.skip_rest();
        self.add(scope, format!("{name}({labels})"), What::Function, public, line);
    }

    fn properties(&mut self, keyword: &str, scope: &Scope, public: bool, private_set: bool) {
        let line = self.tokens[self.at].line;
        self.at += 1;
        let mut names = vec![self.word(self.at).unwrap_or_default().to_owned()];
        self.at += 1;
        let (mut has_value, mut read_only) = (false, keyword == "let" || private_set);
        while self.at < self.tokens.len() && !self.ends_here() {
            if self.is(self.at, '{') {
                let end = after_group(self.tokens, self.at);
                let first = self.word(self.at + 1);
                let observes = first.is_some_and(|word| ["didSet", "willSet"].contains(&word));
                let sets = self.tokens[self.at..end].iter().any(|token| token.word() == Some("set"));
                read_only |= !has_value && !observes && !sets;
                self.at = end;
                continue;
            }
            has_value |= self.is(self.at, '=');
            let another = self.is(self.at, ',')
                && self.word(self.at + 1).is_some()
                && (self.is(self.at + 2, ':') || self.is(self.at + 2, '='));
            if another {
                names.push(self.word(self.at + 1).unwrap_or_default().to_owned());
            }
            self.at = if self.is(self.at, '(') || self.is(self.at, '[') {
                after_group(self.tokens, self.at)
            } else {
                self.at + 1
            };
        }
        for name in names {
            self.add(scope, name, What::Property { settable: !read_only }, public, line);
        }
    }

    fn cases(&mut self, scope: &Scope, public: bool) {
        let line = self.tokens[self.at].line;
        self.at += 1;
        // An enum's cases are as public as the enum; its other members are not.
        let by_owner = self
            .found
            .iter()
            .rev()
            .find(|declaration| declaration.path == scope.path)
            .is_some_and(|declaration| declaration.public);
        let mut next = self.found.iter().rev().find_map(|last| match last.what {
            What::Case { value } if last.owner() == scope.path.join(".") => Some(value + 1),
            _ => None,
        });
        let mut expected = true;
        while self.at < self.tokens.len() && !self.ends_here() {
            if expected && let Some(name) = self.word(self.at) {
                let name = name.to_owned();
                let given = match self.tokens.get(self.at + 2).map(|token| &token.kind) {
                    Some(Kind::Number(value)) if self.is(self.at + 1, '=') => Some(i64::from(*value)),
                    _ => None,
                };
                let value = given.or(next).unwrap_or(0);
                next = Some(value + 1);
                self.add(scope, name, What::Case { value }, public || by_owner, line);
                expected = false;
            }
            expected |= self.is(self.at, ',');
            self.at = if self.is(self.at, '(') { after_group(self.tokens, self.at) } else { self.at + 1 };
        }
    }

    /// Skips to the end of a declaration, past its body, if it has one.
    fn skip_rest(&mut self) {
        while self.at < self.tokens.len() && !self.ends_here() {
            let body = self.is(self.at, '{');
            let group = body || self.is(self.at, '(') || self.is(self.at, '[');
            self.at = if group { after_group(self.tokens, self.at) } else { self.at + 1 };
            if body {
                break;
            }
        }
    }

    /// A declaration ends before a brace or semicolon, and before a line that begins another one.
    fn ends_here(&self) -> bool {
        let token = &self.tokens[self.at];
        let starts = |word: &str| KEYWORDS.contains(&word) || TYPES.contains(&word) || MODIFIERS.contains(&word);
        match &token.kind {
            Kind::Mark('}' | ';') => true,
            Kind::Mark('@' | '#') => token.first,
            Kind::Word(word) => token.first && starts(word),
            _ => false,
        }
    }
}

/// Labels of the parenthesis at `open`, each with its colon: of a declaration, where the label is the first of one or
/// two names, or of a call, where an argument may have none.
pub fn labels(tokens: &[Token], open: usize, declaration: bool) -> String {
    let end = after_group(tokens, open).saturating_sub(1);
    let mut text = String::new();
    let mut at = open + 1;
    while at < end {
        // Attributes and modifiers follow the colon, so the first word is the label.
        let label = tokens[at].word().unwrap_or("_");
        let named = tokens[at + 1].is(':') || declaration;
        text.push_str(if named { label } else { "_" });
        text.push(':');
        while at < end && !tokens[at].is(',') {
            let group = matches!(tokens[at].kind, Kind::Mark('(' | '[' | '{'));
            at = if group { after_group(tokens, at) } else { at + 1 };
        }
        at += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::lexer::tokens, *};

    fn found(source: &str) -> Vec<String> {
        let of = |d: &Declaration| {
            let what = match &d.what {
                What::Property { settable: true } => "set",
                What::Property { .. } => "get",
                What::Type { keyword, .. } => keyword,
                What::Function | What::Case { .. } => "",
            };
            format!("{}{} {what}", if d.public { "+" } else { "-" }, d.path.join(".")).trim_end().to_owned()
        };
        declarations(&tokens(source)).iter().map(of).collect()
    }

    #[test]
    fn names_labels_and_access() {
        let source = r#"
            // class Comment {}
            open class A: B, C {
                open var a = 1, b: [Int] = [1, 2]
                public private(set) var c: Int?
                public let d: String  /* var e */
                open class var f: Int { 1 }
                var g: Int { get { 1 } set { let h = newValue } }
                public var i: Int { didSet { print("\(a(")var j"))") } }
                public init?(x: Int, _ y: @escaping () -> Void = {}) throws { let k = 1 }
                open func l(for m: Int, n: Int) -> Int { 1 }
            }
            public enum E: Int { case o = 1, p; case q(String)
                public static var r: E { .o } }
            public protocol P { func s(_ t: Int)
                func u() -> Int }
            extension A.N { func v() {} }
        "#;
        assert_eq!(
            found(source).join(" "),
            "+A class +A.a set +A.b set +A.c get +A.d get +A.f get -A.g set +A.i set +A.init(x:_:) +A.l(for:n:) \
             +E enum +E.o +E.p +E.q +E.r get +P protocol +P.s(_:) +P.u() -A.N extension -A.N.v()"
        );
    }
}
