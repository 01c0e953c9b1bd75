//! How words and paths are written for those who take them apart again: a POSIX shell, and ssh's configuration.
//!
//! Both work on bytes, for a path need not be UTF-8. [`naming`](crate::naming) refuses state directories that no quoting saves.

use dvn_types::{Kind, Report};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

/// Words as a shell reads them, with blanks between. A word that holds a NUL byte is refused: no program can be given one.
pub fn for_shell<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> Result<Vec<u8>, Report> {
    let words: Vec<&OsStr> = words.into_iter().collect();
    shlex::bytes::try_join(words.iter().map(|word| word.as_bytes())).map_err(|_| {
        let word = words.iter().find(|word| word.as_bytes().contains(&0)).copied().unwrap_or_default();
        Report::new(Kind::Config, format!("{word:?} cannot be given to a program: it has a NUL byte"))
            .hint("write it without that byte")
    })
}

/// A path as a value in ssh's configuration: it may hold spaces, and `%` stands for itself.
pub fn for_ssh_config(path: &OsStr) -> OsString {
    let mut value = vec![b'"'];
    for byte in path.as_bytes() {
        match byte {
            b'"' | b'\\' => value.extend_from_slice(&[b'\\', *byte]),
            b'%' => value.extend_from_slice(b"%%"),
            byte => value.push(*byte),
        }
    }
    value.push(b'"');
    OsString::from_vec(value)
}

/// A command as a value in ssh's configuration, such as `ProxyCommand`: ssh expands `%` in it, and a shell runs it.
pub fn for_ssh_command<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> Result<OsString, Report> {
    let line = for_shell(words)?;
    Ok(OsString::from_vec(line.split(|byte| *byte == b'%').collect::<Vec<_>>().join(&b"%%"[..])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What a shell makes of a line: its words, each with `|` behind it.
    fn read_by_a_shell(line: &OsStr) -> Vec<u8> {
        let mut command = OsString::from("printf '%s|' ");
        command.push(line);
        Command::new("sh").arg("-c").arg(command).output().unwrap().stdout
    }

    /// Words of which each one is every byte at another place, so that each has each for a neighbour at some time.
    #[test]
    fn a_shell_reads_every_byte_as_it_was() {
        let all: Vec<u8> = (1..=255).collect();
        for start in (0..255).step_by(15) {
            let odd = OsString::from_vec([&all[start..], &all[..start]].concat());
            let words = [OsStr::new(""), &odd, OsStr::new("it's"), OsStr::new("/a $HOME!^`~")];
            let read = read_by_a_shell(OsStr::from_bytes(&for_shell(words).unwrap()));
            let expected: Vec<u8> = words.iter().flat_map(|word| [word.as_bytes(), b"|"].concat()).collect();
            assert_eq!(read, expected, "{start}");
        }
    }

    #[test]
    fn a_nul_is_refused_with_the_word_that_has_it() {
        let error = for_shell([OsStr::new("fine"), OsStr::new("/a\0b")]).unwrap_err();
        assert!(
            error.message.contains(r"/a\0b") && error.message.contains("NUL") && !error.hints.is_empty(),
            "{error}"
        );
    }

    #[test]
    fn ssh_reads_blanks_quotes_and_percent_signs_as_they_were() {
        assert_eq!(for_ssh_config(OsStr::new("/a b/50%\"\\")), "\"/a b/50%%\\\"\\\\\"");
        let words = [OsStr::new("/opt/it's/50%"), OsStr::from_bytes(b"/st ate/\xff%%")];
        let line = for_ssh_command(words).unwrap();
        let bytes = line.as_bytes();
        // What ssh makes of it before the shell.
        let mut expanded = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let percent = bytes[at] == b'%';
            assert!(!percent || bytes[at..].starts_with(b"%%"), "{line:?}");
            expanded.push(bytes[at]);
            at += if percent { 2 } else { 1 };
        }
        assert_eq!(read_by_a_shell(OsStr::from_bytes(&expanded)), b"/opt/it's/50%|/st ate/\xff%%|");
    }
}
