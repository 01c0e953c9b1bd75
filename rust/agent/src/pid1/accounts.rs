//! Users of the system image, from its `/etc/passwd` and `/etc/group`.

use std::{collections::BTreeSet, fs};

/// The users that run builds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildUsers {
    /// The group's number; 0 if the image has no such group.
    pub gid: u32,
    /// The users' numbers.
    pub uids: BTreeSet<u32>,
}

/// The members of the group `nixbld`.
pub fn build_users() -> BuildUsers {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    parse_build_users(&read("/etc/group"), &read("/etc/passwd"))
}

/// Number and primary group of a user.
pub fn user(name: &str) -> Option<(u32, u32)> {
    parse_user(&fs::read_to_string("/etc/passwd").unwrap_or_default(), name)
}

fn parse_user(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        Some((uid, fields.next()?.parse().ok()?))
    })
}

fn parse_build_users(group: &str, passwd: &str) -> BuildUsers {
    let found = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some("nixbld")).then_some(())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((gid, fields.next().unwrap_or_default()))
    });
    let Some((gid, members)) = found else { return BuildUsers::default() };
    let uids = members.split(',').filter_map(|name| parse_user(passwd, name)).map(|(uid, _)| uid);
    // Root may build, but is not a build user: every process of the system would count as a build.
    BuildUsers { gid, uids: uids.filter(|uid| *uid != 0).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn build_users_are_the_members_of_nixbld() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nnixbld1:x:30001:30000::/:/x\nnixbld2:x:30002:30000::/:/x\nbad:x:y:z\n";
        let group = "root:x:0:\nnixbld:x:30000:nixbld1,nixbld2,gone,root\n";
        let users = parse_build_users(group, passwd);
        assert_eq!(users, BuildUsers { gid: 30000, uids: [30001, 30002].into() });
        assert_eq!(parse_user(passwd, "bad"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(group in any::<String>(), passwd in any::<String>(), name in any::<String>()) {
            let _ = parse_build_users(&group, &passwd);
            let _ = parse_user(&passwd, &name);
        }
    }
}
