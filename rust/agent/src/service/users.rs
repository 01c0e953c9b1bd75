//! Users of the guest, from `/etc/passwd` and `/etc/group`.

use std::fs;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// All groups, the primary one included.
    pub groups: Vec<u32>,
    pub home: String,
    pub shell: String,
}

/// The user of this name or number.
pub fn find(wanted: &str) -> Result<User, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
    let (passwd, group) = (read("/etc/passwd")?, fs::read_to_string("/etc/group").unwrap_or_default());
    parse(&passwd, &group, wanted).ok_or_else(|| format!("there is no user {wanted:?} in the guest's /etc/passwd"))
}

/// The user that runs the agent.
pub fn own() -> User {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    find(&uid.to_string()).unwrap_or_else(|_| User {
        name: uid.to_string(),
        uid,
        gid,
        groups: vec![gid],
        home: "/".to_owned(),
        shell: "/bin/sh".to_owned(),
    })
}

/// A name is preferred to a number.
fn parse(passwd: &str, group: &str, wanted: &str) -> Option<User> {
    let all = || passwd.lines().filter_map(|line| parse_line(line, group));
    let number = wanted.parse::<u32>().ok();
    all().find(|user| user.name == wanted).or_else(|| all().find(|user| Some(user.uid) == number))
}

fn parse_line(line: &str, group: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    let or = |text: &str, default: &str| if text.is_empty() { default } else { text }.to_owned();
    let mut groups = vec![gid];
    groups.extend(member_of(group, name).filter(|other| *other != gid));
    Some(User { name: name.to_owned(), uid, gid, groups, home: or(home, "/"), shell: or(shell, "/bin/sh") })
}

/// The groups that list this user as a member.
fn member_of<'a>(group: &'a str, name: &'a str) -> impl Iterator<Item = u32> + 'a {
    group.lines().filter_map(move |line| {
        let mut fields = line.splitn(4, ':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nadmin:x:1000:1000:,,,:/home/admin:/bin/zsh\n\
        # a comment\nodd:x:y:1:::\n1000:x:7:7:::\n+\n";
    const GROUP: &str = "root:x:0:\nadmin:x:1000:admin\nsudo:x:27:other,admin\nwheel:x:z:admin\nnot:x:5:adminx\n";

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_all_groups() {
        let admin = User {
            name: "admin".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000, 27],
            home: "/home/admin".into(),
            shell: "/bin/zsh".into(),
        };
        assert_eq!(parse(PASSWD, GROUP, "admin"), Some(admin));
        assert_eq!(parse(PASSWD, GROUP, "0").map(|user| user.name), Some("root".into()));
        let odd = parse(PASSWD, GROUP, "1000").unwrap();
        assert_eq!((odd.uid, odd.home.as_str(), odd.shell.as_str()), (7, "/", "/bin/sh"), "a name before a number");
        for unknown in ["odd", "", "42", "-1", "# a comment"] {
            assert_eq!(parse(PASSWD, GROUP, unknown), None, "{unknown}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(passwd: String, group: String, wanted: String) {
            let _ = parse(&passwd, &group, &wanted);
        }
    }
}
