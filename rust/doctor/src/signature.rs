//! This program's signature: without the entitlement in it, macOS refuses to run virtual machines. On a system without
//! `codesign` the check does not apply.

use super::{finding::Finding, program::Said, subject::Subject};
use dvn_types::Kind;
use std::path::Path;

const ENTITLEMENT: &str = "com.apple.security.virtualization";

/// The output of `codesign`.
struct Facts {
    verified: Said,
    entitlements: Said,
}

/// The check `signature`.
pub async fn check(subject: &Subject) -> Finding {
    let Some(codesign) = subject.find_in_system("codesign") else {
        return Finding::not_applicable("this system requires no signatures");
    };
    let gather = async || {
        let verify = codesign.clone().args(["--verify", "--strict"]).args([&subject.program]);
        let display = codesign.clone().args(["--display", "--entitlements", "-", "--xml"]).args([&subject.program]);
        Ok::<_, String>(Facts { verified: verify.run().await?, entitlements: display.run().await? })
    };
    match gather().await {
        Ok(facts) => judge(&facts, &subject.program),
        Err(why) => Finding::warning(why),
    }
}

fn judge(facts: &Facts, program: &Path) -> Finding {
    let shown = program.display();
    let sign = format!("sign it: codesign --force --sign - --entitlements entitlements.plist {shown}");
    if !facts.verified.succeeded() {
        return Finding::failed(Kind::Host, format!("its signature is invalid: {}", facts.verified.complaint()))
            .hint(sign)
            .hint("or reinstall it");
    }
    if !entitled(&facts.entitlements.stdout) {
        return Finding::failed(Kind::Host, format!("{shown} lacks the entitlement {ENTITLEMENT}")).hint(sign);
    }
    Finding::ok(format!("it holds, with {ENTITLEMENT}"))
}

/// The entitlement is present and true: in a property list, or in the text form of some versions of `codesign`.
fn entitled(text: &str) -> bool {
    let Some((_, after)) = text.split_once(ENTITLEMENT) else { return false };
    let value = after.trim_start_matches("</key>").trim_start();
    let value = value.strip_prefix("[Value]").map_or(value, str::trim_start);
    value.starts_with("<true/>") || value.starts_with("[Bool] true")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLIST: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
        \"https://www.apple.com/DTDs/PropertyList-1.0.dtd\"><plist version=\"1.0\"><dict>\
        <key>com.apple.security.network.client</key><true/>\
        <key>com.apple.security.virtualization</key><true/></dict></plist>";
    const WORDS: &str = "[Dict]\n\t[Key] com.apple.security.network.client\n\t[Value]\n\t\t[Bool] true\n\t[Key] com.apple.security.virtualization\n\t[Value]\n\t\t[Bool] true\n";

    fn said(code: i32, stdout: &str, stderr: &str) -> Said {
        Said { code: Some(code), stdout: stdout.to_owned(), stderr: stderr.to_owned() }
    }

    fn judged(verified: Said, entitlements: Said) -> Finding {
        judge(&Facts { verified, entitlements }, Path::new("/opt/darwin-vz-nix"))
    }

    #[test]
    fn a_signature_with_the_entitlement_holds() {
        for text in [PLIST, WORDS] {
            let finding = judged(said(0, "", ""), said(0, text, "Executable=/opt/darwin-vz-nix\n"));
            assert_eq!(finding, Finding::ok("it holds, with com.apple.security.virtualization"));
        }
    }

    #[test]
    fn one_without_it_does_not() {
        let refused = PLIST.replace("virtualization</key><true/>", "virtualization</key><false/>");
        let others = PLIST.replace("virtualization", "hypervisor");
        for text in [
            "",
            &refused,
            &others,
            &WORDS.replace("virtualization\n\t[Value]\n\t\t[Bool] true", "virtualization\n\t[Value]\n\t\t[Bool] false"),
        ] {
            let finding = judged(said(0, "", ""), said(0, text, ""));
            assert_eq!(finding.kind, Some(Kind::Host), "{text}");
            assert!(finding.hints[0].contains("--entitlements entitlements.plist"), "{finding:?}");
        }
    }

    #[test]
    fn neither_does_a_broken_one() {
        for complaint in [
            "/opt/darwin-vz-nix: code object is not signed at all\nIn architecture: arm64",
            "/opt/darwin-vz-nix: invalid signature (code or signature have been modified)\nIn architecture: arm64",
        ] {
            let finding = judged(said(1, "", complaint), said(0, PLIST, ""));
            assert!(finding.evidence.contains(complaint.lines().next().unwrap()), "{finding:?}");
        }
    }
}
