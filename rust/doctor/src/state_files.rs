//! The files of the state directory, opened as the daemon opens them: they must be regular files that this user can
//! read and write, and those that cannot be recreated must have valid contents.

use super::{finding::Finding, subject::Subject};
use dvn_host::{
    api_token::Token,
    files::state_error,
    machine_dir::inventory::{self, Access, Entry, Replaced},
    regular_file::{self, NotRegular},
};
use dvn_types::Report;
use std::{fs::File, io, path::PathBuf};

/// What is wrong with the files.
#[derive(Debug, Default)]
struct Faults {
    /// Reports that stop the daemon or a boot.
    hinder: Vec<Report>,
    /// Files that are replaced when they are needed.
    replaced: Vec<(PathBuf, NotRegular)>,
}

/// The check `state-files`. Keys, files derived from them and the lock have checks of their own.
pub async fn check(subject: &Subject) -> Finding {
    if !subject.state_dir.is_dir() {
        return Finding::not_applicable("there are none yet; the first start makes them");
    }
    let dir = subject.dir();
    let elsewhere =
        [dir.user_key(), dir.user_public_key(), dir.host_key(), dir.known_hosts(), subject.state_dir.join("lock")];
    let mut files = inventory::files(&subject.state_dir, &subject.machine);
    files.retain(|file| !elsewhere.contains(&file.path));
    let mut faults = look(&files);
    if faults.hinder.is_empty() {
        faults.hinder.extend(dvn_generations::examine(&dir).err());
        let token = subject.dir_token();
        if subject.api_listen.is_some() && token.exists() {
            faults.hinder.extend(Token::read(&token).err());
        }
    }
    judge(faults)
}

fn look(files: &[Entry]) -> Faults {
    let mut faults = Faults::default();
    for Entry { path, replaced, access } in files {
        let opened = regular_file::open_as(path, File::options().read(true).write(*access == Access::Write));
        match opened {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => match (NotRegular::behind(&error), replaced) {
                (Some(what), Replaced::Anew) => faults.replaced.push((path.clone(), what)),
                _ => faults.hinder.push(state_error(path, "cannot use", &error)),
            },
        }
    }
    faults
}

fn judge(faults: Faults) -> Finding {
    if let Some(first) = faults.hinder.into_iter().next() {
        return first.into();
    }
    match faults.replaced.first() {
        Some((path, what)) => Finding::warning(format!("{} is of the wrong kind: {what}", path.display()))
            .hint("it is replaced when it is needed; a directory is moved aside"),
        None => Finding::ok("each is a regular file that can be read and written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;
    use dvn_host::wrong_files;
    use dvn_types::Kind;

    #[test]
    fn each_file_of_each_wrong_kind_is_reported_and_nothing_hangs() {
        let tmp = tempfile::tempdir().unwrap();
        let files = inventory::files(tmp.path(), &"builder".parse().unwrap());
        assert!(files.len() > 15);
        for file in &files {
            std::fs::create_dir_all(file.path.parent().unwrap()).unwrap();
            for kind in wrong_files::KINDS {
                wrong_files::make(kind, &file.path);
                let finding = judge(look(&files));
                let expected = match file.replaced {
                    Replaced::Never => (Outcome::Failed, Some(Kind::State)),
                    Replaced::Anew => (Outcome::Warning, None),
                };
                assert_eq!((finding.outcome, finding.kind), expected, "{kind}: {finding:?}");
                assert!(finding.evidence.contains(&*file.path.to_string_lossy()), "{kind}: {finding:?}");
                assert!(!finding.hints.is_empty(), "{kind}: {finding:?}");
                wrong_files::assert_nothing_lost(kind, &file.path);
            }
            dvn_host::files::remove_all(&file.path).unwrap();
        }
        assert_eq!(judge(look(&files)).outcome, Outcome::Ok);
    }

    #[tokio::test]
    async fn what_the_daemon_would_refuse_of_their_contents_is_a_fault() {
        let tmp = tempfile::tempdir().unwrap();
        let mut subject = Subject::unknown(tmp.path());
        assert_eq!(check(&subject).await.outcome, Outcome::Ok);
        std::fs::write(subject.dir_token(), "short").unwrap();
        assert_eq!(check(&subject).await.outcome, Outcome::Ok, "no setting needs the token");
        subject.api_listen = Some(([127, 0, 0, 1], 31180).into());
        assert!(check(&subject).await.evidence.contains("api-token"));
        std::fs::remove_file(subject.dir_token()).unwrap();
        let generations = subject.dir().generations();
        std::fs::create_dir_all(&generations).unwrap();
        std::fs::write(generations.join("ledger.json"), "{").unwrap();
        let finding = check(&subject).await;
        assert!(finding.outcome == Outcome::Failed && finding.evidence.contains("damaged"), "{finding:?}");
    }
}
