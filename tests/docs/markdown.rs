//! The subset of Markdown that these pages use: headings, links, code.

/// A parsed page.
#[derive(Debug, Default)]
pub struct Page {
    /// The anchors of its headings.
    pub anchors: Vec<String>,
    /// The targets of its links, with their lines.
    pub links: Vec<(usize, String)>,
    /// Its fenced code: the language, the line after the fence, and the text.
    pub blocks: Vec<(String, usize, String)>,
    /// Code within lines.
    pub spans: Vec<(usize, String)>,
}

/// Parses one. Lines count from 1.
pub fn read(text: &str) -> Page {
    let mut page = Page::default();
    let mut fence: Option<(String, usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(rest) = line.trim_start().strip_prefix("```") {
            match fence.take() {
                Some(block) => page.blocks.push(block),
                None => fence = Some((rest.trim().to_owned(), number + 1, String::new())),
            }
            continue;
        }
        if let Some((_, _, code)) = &mut fence {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        let hashes = line.bytes().take_while(|&byte| byte == b'#').count();
        if let Some(heading) = line.get(hashes..).and_then(|rest| rest.strip_prefix(' ')).filter(|_| hashes > 0) {
            page.anchors.push(unique(slug(heading), &page.anchors));
        }
        // Code spans hide text that looks like a link; every second piece between backticks is one.
        let mut prose = String::new();
        for (index, piece) in line.split('`').enumerate() {
            match index % 2 {
                0 => prose.push_str(piece),
                _ => page.spans.push((number, piece.to_owned())),
            }
        }
        for piece in prose.split("](").skip(1) {
            page.links.push((number, piece.split(')').next().unwrap_or_default().to_owned()));
        }
    }
    assert!(fence.is_none(), "a fence without an end: {fence:?}");
    page
}

/// The anchor of a heading, as both the repository's site and mdbook make it.
fn slug(heading: &str) -> String {
    let text = heading.split("](").enumerate().map(|(index, piece)| match index {
        0 => piece,
        _ => piece.split_once(')').map_or("", |(_, rest)| rest),
    });
    let letter = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    };
    text.collect::<String>().to_lowercase().chars().filter_map(letter).collect()
}

fn unique(name: String, taken: &[String]) -> String {
    let numbered = (1..).map(|n| format!("{name}-{n}"));
    std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(name)
}
