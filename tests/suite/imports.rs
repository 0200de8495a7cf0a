//! Imports flow one way: no file of a crate imports, by way of others, itself. A module and its own
//! children are one unit, so what a `mod.rs` takes from its children does not count.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::path::Path;

use syn::visit::{self, Visit};

/// The Rust text of a crate by file, relative to its `src`.
type Sources = BTreeMap<String, String>;

/// A path from the crate's root: `["loss", "calibration", "beta"]`.
type Segments = Vec<String>;

/// One source file.
#[derive(Default)]
struct Module {
    file: String,
    /// Name and target of every `use` outside tests.
    bindings: Vec<(String, Segments)>,
    /// Modules whose every name a `use ..::*` brings in.
    globs: Vec<Segments>,
    /// Every other path outside tests that may lead to this crate.
    paths: Vec<Segments>,
}

/// The files of a crate by module, and which of them import which.
struct Crate {
    modules: BTreeMap<Segments, Module>,
}

impl Crate {
    fn parse(sources: &Sources) -> Self {
        let places: BTreeMap<Segments, &String> = sources
            .keys()
            .filter_map(|file| Some((module_of(file)?, file)))
            .collect();
        let mut modules = BTreeMap::new();
        for (place, file) in &places {
            let parsed = syn::parse_file(&sources[*file]).unwrap_or_else(|e| panic!("{file}: {e}"));
            let mut reader = Reader {
                place: place.clone(),
                known: &places,
                found: Module {
                    file: file.to_string(),
                    ..Module::default()
                },
            };
            reader.visit_file(&parsed);
            modules.insert(place.clone(), reader.found);
        }
        Self { modules }
    }

    /// The module that defines what a path names, through re-exports.
    fn definition(&self, path: &[String], passed: &mut BTreeSet<(Segments, String)>) -> Segments {
        let depth = (0..=path.len())
            .rev()
            .find(|depth| self.modules.contains_key(&path[..*depth]))
            .unwrap_or(0);
        let (place, rest) = path.split_at(depth);
        let Some(name) = rest.first() else {
            return place.to_vec();
        };
        if !passed.insert((place.to_vec(), name.clone())) {
            return place.to_vec();
        }
        let module = &self.modules[place];
        let onward = |target: &Segments| [&target[..], &rest[1..]].concat();
        if let Some((_, target)) = module.bindings.iter().find(|(known, _)| known == name) {
            return self.definition(&onward(target), passed);
        }
        for glob in &module.globs {
            let target = [&glob[..], rest].concat();
            let found = self.definition(&target, passed);
            if found != *glob {
                return found;
            }
        }
        place.to_vec()
    }

    /// The modules that a module imports, without itself and its children.
    fn imports(&self, place: &Segments) -> BTreeSet<Segments> {
        let module = &self.modules[place];
        let used = module.bindings.iter().map(|(_, target)| target.clone());
        let globs = module.globs.iter().cloned();
        let paths = module.paths.iter().cloned();
        used.chain(globs)
            .chain(paths)
            .map(|path| self.definition(&path, &mut BTreeSet::new()))
            .filter(|target| !target.starts_with(place))
            .collect()
    }

    /// A shortest circle of imports for each set of files that import each other, its files in
    /// order; the first one stands at the end again.
    fn circles(&self) -> Vec<Vec<String>> {
        let graph: BTreeMap<&Segments, BTreeSet<Segments>> = self
            .modules
            .keys()
            .map(|place| (place, self.imports(place)))
            .collect();
        let mut seen: BTreeSet<Segments> = BTreeSet::new();
        let mut circles = Vec::new();
        for start in graph.keys() {
            if seen.contains(*start) {
                continue;
            }
            if let Some(circle) = way_back(&graph, start) {
                seen.extend(circle.iter().cloned());
                let files = circle.iter().map(|place| self.modules[place].file.clone());
                circles.push(files.collect());
            }
        }
        circles
    }
}

/// The shortest way along imports from a module back to itself.
fn way_back(
    graph: &BTreeMap<&Segments, BTreeSet<Segments>>,
    start: &Segments,
) -> Option<Vec<Segments>> {
    let mut ways = VecDeque::from([vec![start.clone()]]);
    let mut reached = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in &graph[way.last()?] {
            let longer = [&way[..], std::slice::from_ref(next)].concat();
            if next == start {
                return Some(longer);
            }
            if reached.insert(next.clone()) {
                ways.push_back(longer);
            }
        }
    }
    None
}

/// `loss/mod.rs` is `loss`, `loss/calibration.rs` is `loss::calibration`, `lib.rs` the root; other
/// targets than the library have no module.
fn module_of(file: &str) -> Option<Segments> {
    if file == "main.rs" || file.starts_with("bin/") {
        return None;
    }
    let stem = file.strip_suffix(".rs")?;
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    match stem {
        "lib" => Some(Vec::new()),
        _ => Some(stem.split('/').map(str::to_owned).collect()),
    }
}

/// Collects what a file imports.
struct Reader<'a> {
    /// The file's module, longer inside of modules that stand in the file itself.
    place: Segments,
    known: &'a BTreeMap<Segments, &'a String>,
    found: Module,
}

impl Reader<'_> {
    /// A path from the crate's root, if it may lead into this crate.
    fn absolute(&self, path: &[String]) -> Option<Segments> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&self.place[..], rest].concat()),
            "super" => {
                let above = &self.place[..self.place.len().checked_sub(1)?];
                let rest: Vec<String> = rest.to_vec();
                let deeper = rest.iter().take_while(|part| *part == "super").count();
                let above = &above[..above.len().checked_sub(deeper)?];
                Some([above, &rest[deeper..]].concat())
            }
            // A name of this file: a child, or what a `use` brought in.
            _ => {
                let child = [&self.place[..], std::slice::from_ref(first)].concat();
                let bound = self.found.bindings.iter().find(|(name, _)| name == first);
                match (self.known.contains_key(&child), bound) {
                    (true, _) => Some([&child[..], rest].concat()),
                    (false, Some((_, target))) => Some([&target[..], rest].concat()),
                    (false, None) => None,
                }
            }
        }
    }

    fn read_use(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.read_use(&path.tree, &with(&path.ident)),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(tree, before);
                }
            }
            syn::UseTree::Glob(_) => self.found.globs.extend(self.absolute(before)),
            syn::UseTree::Name(name) if name.ident == "self" => {
                let last = before.last().cloned().unwrap_or_default();
                self.bind(last, before);
            }
            syn::UseTree::Name(name) => self.bind(name.ident.to_string(), &with(&name.ident)),
            syn::UseTree::Rename(rename) => {
                self.bind(rename.rename.to_string(), &with(&rename.ident));
            }
        }
    }

    fn bind(&mut self, name: String, path: &[String]) {
        if let Some(target) = self.absolute(path) {
            self.found.bindings.push((name, target));
        }
    }
}

/// Whether an item is compiled in tests alone.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let words = match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string(),
            _ => return false,
        };
        words.trim() == "test"
    })
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if is_test(&module.attrs) || module.content.is_none() {
            return;
        }
        self.place.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.place.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) && item.leading_colon.is_none() {
            self.read_use(&item.tree, &[]);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_test(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string());
        let parts: Vec<String> = parts.collect();
        if parts.len() > 1 && path.leading_colon.is_none() {
            self.found.paths.extend(self.absolute(&parts));
        }
        visit::visit_path(self, path);
    }

    /// The inside of a macro is text: paths from the root are found in it.
    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let text = item.tokens.to_string().replace(' ', "");
        for after in text.split("crate::").skip(1) {
            let end = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
            let path = after.split(end).next().unwrap_or_default();
            let parts = path.split("::").filter(|part| !part.is_empty());
            self.found.paths.push(parts.map(str::to_owned).collect());
        }
        visit::visit_macro(self, item);
    }
}

/// Every Rust file below a directory.
fn sources(root: &Path, directory: &Path, found: &mut Sources) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            found.insert(name.replace('\\', "/"), text);
        }
    }
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let mut report = String::new();
    for part in ["data/src", "model/src", "train/src", "src"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(part);
        let mut found = Sources::new();
        sources(&root, &root, &mut found);
        assert!(found.contains_key("lib.rs"), "{part}");
        for circle in Crate::parse(&found).circles() {
            writeln!(report, "{part}: {}", circle.join(" -> ")).unwrap();
        }
    }
    assert!(
        report.is_empty(),
        "these files import each other:\n{report}"
    );
}

/// The circles of a made-up crate.
fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let named = files
        .iter()
        .map(|(file, text)| (file.to_string(), text.to_string()));
    Crate::parse(&named.collect()).circles()
}

#[test]
fn a_circle_is_found_with_its_files_in_order() {
    let tree = [
        ("lib.rs", "pub mod a; pub mod b; pub mod c; pub mod d;"),
        ("a.rs", "use crate::b::B; pub struct A(B);"),
        ("b.rs", "pub struct B; fn f() -> usize { crate::c::N }"),
        ("c.rs", "pub const N: usize = 1; fn f() { g!(crate::a::A) }"),
        ("d.rs", "use crate::{a::A, c};"),
    ];
    assert_eq!(circles(&tree), [["a.rs", "b.rs", "c.rs", "a.rs"]]);
    let mut open = tree;
    open[3].1 = "pub const N: usize = 1; #[cfg(test)] mod tests { use crate::a::A; }";
    assert!(circles(&open).is_empty());
}

#[test]
fn a_re_export_leads_to_the_file_that_defines_the_item() {
    let tree = [
        ("lib.rs", "mod a; mod b; pub use a::one::One; pub use b::*;"),
        ("a/mod.rs", "pub mod one; pub mod two; pub use one::One;"),
        ("a/one.rs", "pub struct One; use crate::Two;"),
        ("a/two.rs", "pub struct Three; use super::One as First;"),
        ("b.rs", "pub use crate::a::two::Three as Two;"),
    ];
    assert_eq!(circles(&tree), [["a/one.rs", "a/two.rs", "a/one.rs"]]);
}

#[test]
fn a_module_and_its_own_children_are_no_circle() {
    let tree = [
        ("lib.rs", "pub mod a; pub mod b; pub use a::one::One;"),
        ("a/mod.rs", "mod one; mod two; use one::One; pub trait T {}"),
        ("a/one.rs", "use super::T; use crate::b::B; pub struct One;"),
        ("a/two.rs", "use super::{T, one::One};"),
        ("b.rs", "pub struct B;"),
    ];
    assert!(circles(&tree).is_empty());
    // But a module that is imported by what its child imports closes one.
    let mut closed = tree;
    closed[4].1 = "use crate::a::T; pub struct B;";
    assert!(circles(&closed).is_empty());
    closed[1].1 = "mod one; mod two; use crate::b::B; pub trait T {}";
    assert_eq!(circles(&closed), [["a/mod.rs", "b.rs", "a/mod.rs"]]);
}
