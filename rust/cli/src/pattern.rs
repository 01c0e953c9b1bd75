//! Patterns for names of machines, as a shell has them for files: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before a character that
//! stands for itself.

/// Whether a text has a character with a meaning in patterns.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// Whether the whole name matches.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last `*` does not match: that star takes one character more.
    let mut again = None;
    loop {
        match (pattern.get(p), name.get(n)) {
            (None, None) => return true,
            (Some('*'), _) => {
                again = Some((p + 1, n));
                p += 1;
                continue;
            }
            (Some(_), Some(character)) => {
                if let Some(length) = standing_for(*character, &pattern[p..]) {
                    (p, n) = (p + length, n + 1);
                    continue;
                }
            }
            _ => {}
        }
        match again {
            Some((after, taken)) if taken < name.len() => {
                again = Some((after, taken + 1));
                (p, n) = (after, taken + 1);
            }
            _ => return false,
        }
    }
}

/// How many of the pattern's first characters stand for this one; `None` if they do not.
fn standing_for(character: char, pattern: &[char]) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', literal, ..] => (*literal == character).then_some(2),
        ['[', rest @ ..] => match set(rest) {
            Some((length, set)) => set.contains(character).then_some(length + 1),
            None => (character == '[').then_some(1),
        },
        [literal, ..] => (*literal == character).then_some(1),
        [] => None,
    }
}

/// The characters between brackets.
struct Set<'a> {
    negated: bool,
    members: &'a [char],
}

/// A set and its length with the closing bracket; `None` if there is no closing bracket.
fn set(rest: &[char]) -> Option<(usize, Set<'_>)> {
    let negated = matches!(rest.first(), Some('!' | '^'));
    let begin = usize::from(negated);
    // A bracket that comes first is a member.
    let length = rest.iter().skip(begin + 1).position(|c| *c == ']')? + begin + 1;
    Some((length + 1, Set { negated, members: &rest[begin..length] }))
}

impl Set<'_> {
    fn contains(&self, character: char) -> bool {
        let mut rest = self.members;
        let mut found = false;
        loop {
            rest = match rest {
                [first, '-', last, more @ ..] => {
                    found |= (*first..=*last).contains(&character);
                    more
                }
                [one, more @ ..] => {
                    found |= *one == character;
                    more
                }
                [] => return found != self.negated,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, good, bad) in [
            ("ci-*", &["ci-", "ci-1", "ci-a b"][..], &["ci", "aci-1"][..]),
            ("*", &["a", "ü x"], &[]),
            ("*-test-*", &["a-test-b", "-test-test-"], &["a-test", "test-b"]),
            ("a?c", &["abc", "aüc"], &["ac", "abbc"]),
            ("vm[0-9]", &["vm1"], &["vm", "vma", "vm10"]),
            ("vm[!0-9]", &["vma"], &["vm1"]),
            ("vm[]x]", &["vm]", "vmx"], &["vm["]),
            ("[a-", &["[a-"], &["a"]),
            (r"a\*b", &["a*b"], &["axb"]),
            ("exact", &["exact"], &["exactly", "exac"]),
            ("a*b*c", &["abc", "a1b2c", "abbcc"], &["acb", "ab"]),
        ] {
            for name in good {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in bad {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
        assert!(is_pattern("ci-*") && !is_pattern("My VM (2)"));
    }

    #[test]
    fn many_stars_take_no_longer_than_the_square_of_the_name() {
        assert!(!matches(&"*a".repeat(100), &"a".repeat(99)));
        assert!(matches(&"*a".repeat(50), &"a".repeat(200)));
    }
}
