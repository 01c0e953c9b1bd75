//! Which file of a crate imports which, as the compiler would see it without tests.

use proc_macro2::{TokenStream, TokenTree};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};
use syn::visit::{self, Visit};

type Module = Vec<String>;

/// The files of one crate, by module.
pub struct Files(BTreeMap<Module, Imports>);

/// The paths in a file, with their first words resolved.
#[derive(Default)]
struct Imports {
    here: Module,
    own: BTreeSet<Module>,
    others: BTreeSet<Module>,
    /// Modules in other files that exist only for tests.
    test_only: BTreeSet<Module>,
}

impl Files {
    /// Reads all files below a crate's `src`.
    pub fn below(src: &Path) -> Files {
        let mut files = BTreeMap::new();
        read(src, &mut Vec::new(), &mut files);
        let test_only: Vec<Module> = files.values().flat_map(|file| file.test_only.iter().cloned()).collect();
        files.retain(|module, _| !test_only.iter().any(|test| module.starts_with(test)));
        Files(files)
    }

    /// Each file's imports from other crates.
    pub fn imports_of_crates(&self) -> impl Iterator<Item = (String, &BTreeSet<Module>)> {
        self.0.iter().map(|(module, file)| (module.join("::"), &file.others))
    }

    /// The other files that one imports.
    fn imported(&self, module: &Module) -> BTreeSet<&Module> {
        let files = self.0[module].own.iter().filter_map(|path| {
            (0..=path.len()).rev().find_map(|length| self.0.get_key_value(&path[..length])).map(|(file, _)| file)
        });
        files.filter(|file| *file != module).collect()
    }
}

fn read(directory: &Path, above: &mut Module, files: &mut BTreeMap<Module, Imports>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            above.push(name);
            read(&path, above, files);
            above.pop();
        } else if path.extension().is_some_and(|end| end == "rs") {
            let mut module = above.clone();
            if !["lib", "main", "mod"].contains(&name.as_str()) {
                module.push(name);
            }
            let text = fs::read_to_string(&path).unwrap();
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut imports = Imports { here: module.clone(), ..Imports::default() };
            imports.visit_file(&file);
            files.insert(module, imports);
        }
    }
}

/// Whether an item exists only for tests.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

impl Imports {
    /// A path as it stands in the source.
    fn names(&mut self, path: &[String]) {
        let Some(first) = path.first() else { return };
        match first.as_str() {
            "crate" => drop(self.own.insert(path[1..].to_vec())),
            "self" => drop(self.own.insert([&self.here[..], &path[1..]].concat())),
            "super" => {
                let up = path.iter().take_while(|word| *word == "super").count();
                let base = &self.here[..self.here.len().saturating_sub(up)];
                let path = [base, &path[up..]].concat();
                self.own.insert(path);
            }
            _ if first.starts_with("dvn_") => drop(self.others.insert(path.to_vec())),
            // A module of this one, or another item.
            _ => {
                let path = [&self.here[..], path].concat();
                self.own.insert(path);
            }
        }
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Module = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match &token {
                TokenTree::Ident(word) if path.is_empty() || colons == 2 => path.push(word.to_string()),
                TokenTree::Punct(sign) if sign.as_char() == ':' && !path.is_empty() && colons < 2 => {
                    colons += 1;
                    continue;
                }
                _ => {
                    self.path_of_a_macro(std::mem::take(&mut path));
                    match token {
                        TokenTree::Ident(word) => path.push(word.to_string()),
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        _ => {}
                    }
                }
            }
            colons = 0;
        }
        self.path_of_a_macro(path);
    }

    fn path_of_a_macro(&mut self, path: Module) {
        if path.len() > 1 {
            self.names(&path);
        }
    }

    fn uses(&mut self, above: &mut Module, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                above.push(path.ident.to_string());
                self.uses(above, &path.tree);
                above.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.uses(above, tree)),
            syn::UseTree::Glob(_) => self.names(above),
            syn::UseTree::Name(syn::UseName { ident }) | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                let mut path = above.clone();
                if ident != "self" {
                    path.push(ident.to_string());
                }
                self.names(&path);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        match &item.content {
            _ if is_for_tests(&item.attrs) && item.content.is_some() => {}
            None if is_for_tests(&item.attrs) => {
                let path = [&self.here[..], &[name]].concat();
                self.test_only.insert(path);
            }
            None => {}
            Some((_, items)) => {
                self.here.push(name);
                items.iter().for_each(|item| self.visit_item(item));
                self.here.pop();
            }
        }
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Impl(item) => &item.attrs[..],
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.uses(&mut Vec::new(), &item.tree);
    }

    /// A macro's input may not be Rust; paths in it still look like paths.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let words: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.names(&words);
        }
        visit::visit_path(self, path);
    }
}

/// Every set of files that import each other, as text.
pub fn circles(files: &Files) -> Vec<String> {
    let direct: BTreeMap<&Module, BTreeSet<&Module>> =
        files.0.keys().map(|module| (module, files.imported(module))).collect();
    let reach = |from| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            open.extend(direct[module].iter().filter(|next| seen.insert(**next)));
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = direct.keys().map(|module| (*module, reach(module))).collect();
    let mut found = BTreeSet::new();
    for (module, below) in &reached {
        if below.contains(*module) {
            let circle = below.iter().filter(|other| reached[**other].contains(*module));
            let names: Vec<String> =
                circle.map(|module| if module.is_empty() { "lib".to_owned() } else { module.join("::") }).collect();
            found.insert(names.join(" "));
        }
    }
    found.into_iter().collect()
}
