//! Swift source as tokens.

/// A token; comments and the text of literals are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word: identifier or keyword.
    Word(String),
    /// A number: its first digits.
    Number(u32),
    /// A string.
    Text,
    /// Any other character.
    Mark(char),
}

/// A token and its position.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token.
    pub kind: Kind,
    /// Line, from 1.
    pub line: usize,
    /// Whether it is the first of its line.
    pub first: bool,
}

impl Token {
    /// The word, if it is one.
    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Whether it is this character.
    pub fn is(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }
}

/// Splits a source into tokens.
pub fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let (mut at, mut line, mut first) = (0, 1, true);
    let mut tokens = Vec::new();
    while at < text.len() {
        let here = text[at];
        let next = text.get(at + 1).copied();
        let start = at;
        let kind = match here {
            '\n' => {
                (line, first, at) = (line + 1, true, at + 1);
                continue;
            }
            c if c.is_whitespace() => {
                at += 1;
                continue;
            }
            '/' if next == Some('/') => {
                at += text[at..].iter().take_while(|c| **c != '\n').count();
                continue;
            }
            '/' if next == Some('*') => {
                at = after_comment(&text, at);
                line += text[start..at].iter().filter(|c| **c == '\n').count();
                continue;
            }
            '"' => {
                at = after_string(&text, at);
                Kind::Text
            }
            c if c.is_ascii_digit() => {
                at += text[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
                let digits = text[start..at].iter().take_while(|c| c.is_ascii_digit());
                Kind::Number(digits.collect::<String>().parse().unwrap_or(u32::MAX))
            }
            c if c.is_alphabetic() || "_$`".contains(c) => {
                at += text[at..].iter().take_while(|c| c.is_alphanumeric() || "_$`".contains(**c)).count();
                Kind::Word(text[start..at].iter().filter(|c| **c != '`').collect())
            }
            c => {
                at += 1;
                Kind::Mark(c)
            }
        };
        tokens.push(Token { kind, line, first });
        line += text[start..at].iter().filter(|c| **c == '\n').count();
        first = false;
    }
    tokens
}

/// Comments nest.
fn after_comment(text: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(text.len())
}

/// Strings hold code, which may hold strings: `"a \(b("c"))"`.
fn after_string(text: &[char], start: usize) -> usize {
    let long = text[start..].starts_with(&['"', '"', '"']);
    let quote: &[char] = if long { &['"', '"', '"'] } else { &['"'] };
    let mut at = start + quote.len();
    while at < text.len() && !text[at..].starts_with(quote) {
        at = match (text[at], text.get(at + 1)) {
            ('\\', Some('(')) => after_parentheses(text, at + 1),
            ('\\', Some(_)) => at + 2,
            _ => at + 1,
        };
    }
    (at + quote.len()).min(text.len())
}

fn after_parentheses(text: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < text.len() {
        match text[at] {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => {
                at = after_string(text, at);
                continue;
            }
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The index after the bracket that closes the one at `open`.
pub fn after_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Mark('(' | '[' | '{') => depth += 1,
            Kind::Mark(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}
