//! Which modules and crates a source file names.

use syn::visit::{self, Visit};

/// One thing that a file names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A top module of this crate.
    Module {
        /// Its name.
        name: String,
    },
    /// Something of another crate.
    Crate {
        /// The whole path, from the crate's name.
        path: String,
        /// Whether only tests name it.
        in_test: bool,
    },
}

/// The module of a file below `src`; empty for the roots.
pub(crate) fn module_path(file: &str) -> Vec<String> {
    let names = file.trim_end_matches(".rs").split('/');
    names.filter(|name| !["mod", "lib", "main"].contains(name)).map(ToOwned::to_owned).collect()
}

/// The modules that are declared for tests only and live in files of their own.
pub(crate) fn test_modules(files: &[(String, String)]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (file, source) in files {
        let parent = module_path(file);
        for item in parse(source).items {
            if let syn::Item::Mod(item) = item
                && item.content.is_none()
                && is_for_tests(&item.attrs)
            {
                found.push([parent.clone(), vec![item.ident.to_string()]].concat());
            }
        }
    }
    found
}

/// Everything that a file names, given its module and the crates that exist.
pub(crate) fn references(source: &str, module: &[String], in_test: bool, crates: &[String]) -> Vec<Reference> {
    let mut finder = Finder { module: module.to_vec(), in_test, crates, found: Vec::new() };
    finder.visit_file(&parse(source));
    finder.found
}

fn parse(source: &str) -> syn::File {
    syn::parse_file(source).unwrap_or_else(|error| panic!("not Rust: {error}\n{source}"))
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

struct Finder<'a> {
    module: Vec<String>,
    in_test: bool,
    crates: &'a [String],
    found: Vec<Reference>,
}

impl Finder<'_> {
    /// Notes what a path leads to. A crate's name alone is a crate only where a path must be absolute.
    fn note(&mut self, segments: &[String], is_absolute: bool) {
        let [first, rest @ ..] = segments else { return };
        let top = match first.as_str() {
            "crate" | "capi_ipam" => rest.first().cloned(),
            "self" => self.module.first().or(rest.first()).cloned(),
            "super" => {
                let ups = segments.iter().take_while(|segment| *segment == "super").count();
                let left = self.module.len().saturating_sub(ups);
                self.module[..left].first().or(segments.get(ups)).cloned()
            }
            name if self.crates.iter().any(|known| known == name) && (is_absolute || !rest.is_empty()) => {
                let path = segments.join("::");
                self.found.push(Reference::Crate { path, in_test: self.in_test });
                None
            }
            _ => None,
        };
        // In the program's root, crate:: leads to the program's own items, which are nobody else's.
        if let Some(name) = top.filter(|_| !self.module.is_empty() || first == "capi_ipam") {
            self.found.push(Reference::Module { name });
        }
    }

    fn note_tree(&mut self, tree: &syn::UseTree, above: &[String]) {
        let with = |name: String| [above, &[name]].concat();
        match tree {
            syn::UseTree::Path(path) => self.note_tree(&path.tree, &with(path.ident.to_string())),
            syn::UseTree::Name(name) if name.ident == "self" => self.note(above, true),
            syn::UseTree::Name(name) => self.note(&with(name.ident.to_string()), true),
            syn::UseTree::Rename(rename) => self.note(&with(rename.ident.to_string()), true),
            syn::UseTree::Glob(_) => self.note(&with("*".to_owned()), true),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.note_tree(item, above)),
        }
    }

    /// Paths among tokens that nobody has parsed: what a macro is given, the arguments of an attribute.
    fn note_tokens(&mut self, tokens: &str) {
        let mut words = words(tokens).into_iter().peekable();
        while let Some(word) = words.next() {
            if !is_name(word) {
                continue;
            }
            let mut segments = vec![word.to_owned()];
            while words.next_if(|next| *next == "::").is_some() {
                segments.extend(words.next_if(|next| is_name(next)).map(ToOwned::to_owned));
            }
            if segments.len() > 1 {
                self.note(&segments, false);
            }
        }
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|start: char| start.is_alphabetic() || start == '_')
}

/// Names, `::` and whatever else, without text in quotes.
fn words(tokens: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = tokens.trim_start();
    while let Some(start) = rest.chars().next() {
        let length = if is_name(rest) {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else if start == '"' {
            quoted(rest)
        } else {
            start.len_utf8()
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

/// The length of the quoted text that this starts with.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let was_in_test = self.in_test;
        self.in_test |= is_for_tests(&item.attrs);
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
        self.in_test = was_in_test;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&item.tree, &[]);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.note(&[item.ident.to_string()], true);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&segments, path.leading_colon.is_some());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.note_tokens(&call.tokens.to_string());
        visit::visit_macro(self, call);
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.note_tokens(&list.tokens.to_string());
        visit::visit_meta_list(self, list);
    }
}
