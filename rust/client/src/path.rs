//! The paths of machines in the API.

use dvn_types::MachineName;

/// The path of a machine, and of what is below it. A name may contain any character but a slash: all that a path cannot contain, or
/// that has a meaning in it, is percent-encoded.
pub fn path_of(machine: &MachineName, rest: &str) -> String {
    let mut path = String::from("/v1/machines/");
    for byte in machine.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            byte => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path + rest
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn a_name_is_one_part_of_the_path_whatever_it_contains() {
        for (name, path) in [
            ("builder", "/v1/machines/builder/stop"),
            ("My VM", "/v1/machines/My%20VM/stop"),
            ("100%:a?b#c", "/v1/machines/100%25%3Aa%3Fb%23c/stop"),
            ("ü.~_-", "/v1/machines/%C3%BC.~_-/stop"),
        ] {
            assert_eq!(path_of(&name.parse().unwrap(), "/stop"), path);
        }
    }
}
