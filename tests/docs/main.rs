//! The documentation against the source tree: links, the book's summary, shown commands and settings, and the book as
//! mdbook builds it. `tests/cli` and `tests/api.rs` check that the generated pages are current.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod checks;
mod html;
mod markdown;

use checks::{Pages, Reference};
use std::{fs, path::Path, process::Command};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

fn pages() -> Pages {
    Pages::read(Path::new(ROOT), REPOSITORY)
}

fn reference() -> Reference {
    Reference::read(&fs::read_to_string(Path::new(ROOT).join("docs/cli.md")).unwrap())
}

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_link_leads_somewhere() {
    none(pages().dead_links());
}

#[test]
fn every_page_is_in_the_summary() {
    none(pages().unlisted());
}

#[test]
fn every_command_that_is_shown_exists() {
    none(pages().unknown_commands(&reference()));
}

#[test]
fn every_option_that_is_shown_exists() {
    none(pages().unknown_options(Path::new("docs/module-options.md")));
}

#[test]
fn what_is_said_of_defaults_is_so() {
    let reference = Path::new("docs/module-options.md");
    none(pages().wrong_defaults("docs/migrating", reference));
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("docs")).unwrap();
    let options = "# Options\n\n## port\n\n* type: integer\n* default: `31122`\n\n## onDemand\n\n* default: `true`\n\n## supportedFeatures\n\n* default: `[ \"kvm\" ]`\n";
    fs::write(dir.path().join("docs/options.md"), options).unwrap();
    for (page, wrong) in [
        ("| `a` (1) | `port` (31122) |\n| `b` | `onDemand` (on), `port` (31122; a number) |\n", 0),
        ("| `port` (1) | `port` (31122) |\n", 0),
        ("| `a` | `port` (31222) |\n", 1),
        ("| `a` | `port` (31122), `onDemand` (off) |\n", 1),
        ("| `a` | `port` (31122) |\n\n`kvm`\nif you add it.\n", 1),
        ("", 1),
    ] {
        fs::write(dir.path().join("docs/from.md"), page).unwrap();
        let found = Pages::read(dir.path(), REPOSITORY).wrong_defaults("docs/from.md", Path::new("docs/options.md"));
        assert_eq!(found.len(), wrong, "{page}: {found:?}");
    }
}

/// `--rebuild` builds locally without a builder, so it proves nothing.
#[test]
fn no_build_that_is_shown_for_a_guest_is_a_rebuild() {
    let mut seen = 0;
    for (path, page) in pages().iter() {
        let blocks = page.blocks.iter().map(|(_, line, code)| (*line, code.as_str()));
        for (line, code) in blocks.chain(page.spans.iter().map(|(line, code)| (*line, code.as_str()))) {
            for build in code.split("nix build").skip(1) {
                seen += 1;
                let guests = build.contains("-linux") || build.contains("--builders");
                assert!(!(guests && build.contains("--rebuild")), "{}:{line}: {code}", path.display());
            }
        }
    }
    assert!(seen > 8, "there are {seen}: the test has shrunk");
}

#[test]
fn every_file_of_settings_that_is_shown_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let mut seen = 0;
    for (path, page) in pages().iter() {
        for (_, line, text) in page.blocks.iter().filter(|(language, ..)| language == "toml") {
            // This computer may have fewer resources than the example.
            fs::write(
                &file,
                text.replace("cores = 4", "cores = 1").replace("\"8G\"", "\"1G\"").replace("\"4G\"", "\"1G\""),
            )
            .unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_darwin-vz-nix"));
            let output = command.env_clear().env("HOME", dir.path()).arg("--config").arg(&file).arg("config").output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}:{line}: {said}\n{text}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 3, "there are {seen}: the test has shrunk");
}

/// The checks find every kind of error.
#[test]
fn the_checks_find_what_they_are_for() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("README.md", "[docs](docs/) [a](docs/a.md#one-two)\n");
    write("rust/main.rs", "");
    write("docs/SUMMARY.md", "- [a](a.md)\n- [b](more/b.md)\n");
    write(
        "docs/a.md",
        "# One, `two`\n\n## rosetta\n\n```sh\n[no](link)\n```\n`[no](link)` [b](more/b.md) [here](#one-two)\n",
    );
    write(
        "docs/more/b.md",
        &format!("[a](../a.md) [code]({REPOSITORY}/blob/main/rust/main.rs) `darwin-vz-nix status --json`\n"),
    );
    let found = || {
        let pages = Pages::read(dir.path(), REPOSITORY);
        let shown = [pages.unknown_commands(&reference()), pages.unknown_options(Path::new("docs/a.md"))];
        [pages.dead_links(), pages.unlisted(), shown.concat()].concat()
    };
    none(found());
    let good = fs::read_to_string(dir.path().join("docs/more/b.md")).unwrap();
    for (added, expected) in [
        ("[x](gone.md)", "docs/more/b.md:2: gone.md: is not there"),
        ("[x](../a.md#three)", "../a.md#three: there is no such heading"),
        ("[x](../../rust/main.rs)", "is not in the book"),
        ("[x](../../../x)", "leads out of the repository"),
        ("[x](../more)", "is a directory"),
        (&format!("[x]({REPOSITORY}/blob/main/rust/gone.rs)"), "is not there"),
        ("`darwin-vz-nix sttus`", "there is no command sttus"),
        ("`darwin-vz-nix --machine a stop --watch`", "stop takes no --watch"),
        (
            "```sh\nx=$(darwin-vz-nix generations delete --all)\n```",
            "docs/more/b.md:3: generations delete takes no --all",
        ),
    ] {
        write("docs/more/b.md", &format!("{good}{added}\n"));
        let found = found();
        assert!(found.len() == 1 && found[0].contains(expected), "{added}: {found:?}");
    }
    write("docs/more/b.md", &good);
    write("docs/c.md", "");
    assert_eq!(found(), ["docs/c.md: missing in docs/SUMMARY.md"]);
    write("docs/SUMMARY.md", "- [a](a.md)\n- [b](more/b.md)\n- [c](c.md)\n- [c](c.md)\n");
    assert_eq!(found(), ["docs/c.md: twice"]);
    write("docs/SUMMARY.md", "- [a](a.md)\n- [b](more/b.md)\n- [c](c.md)\n- [d](decisions/0001-d.md)\n");
    write("docs/decisions/0001-d.md", "");
    assert_eq!(found(), ["docs/decisions/0001-d.md: missing in docs/decisions/README.md"]);
}

#[test]
fn the_book_is_made_without_a_warning_and_its_links_lead_somewhere() {
    let Some(mdbook) = std::env::var_os("DVN_MDBOOK") else {
        panic!("DVN_MDBOOK is not set: run this with `make test`, or give it what tests/tools/mdbook.sh prints")
    };
    let dir = tempfile::tempdir().unwrap();
    let book = dir.path().join("book");
    let docs = Path::new(ROOT).join("docs");
    assert!(
        fs::read_to_string(docs.join("book.toml")).unwrap().contains(REPOSITORY),
        "the book is of another repository"
    );
    let output = Command::new(mdbook).arg("build").arg(docs).arg("--dest-dir").arg(&book).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("WARN") && !said.contains("ERROR"), "{said}");
    none(html::dead_links(&book));
    // The checks do find them.
    let page = book.join("guides/linux.html");
    let text = fs::read_to_string(&page).unwrap();
    fs::write(&page, text.replacen("../config.html", "../config.html#gone", 1)).unwrap();
    let found = html::dead_links(&book);
    assert!(found.len() == 1 && found[0].contains("../config.html#gone"), "{found:?}");
}
