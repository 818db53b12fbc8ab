//! Reads the library: its modules, which module uses which, and which types each defines.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::layers;
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, UseTree, Visibility};

/// One file of the source.
pub struct Module {
    pub file: PathBuf,
    pub lines: usize,
    /// Its first lines.
    pub head: String,
    /// The modules that its code names.
    pub uses: BTreeSet<String>,
    pub types: Vec<TypeName>,
    exports: Exports,
}

pub struct TypeName {
    pub name: String,
    pub is_public: bool,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All modules of the library and the binaries by name, such as `net::link` and `bin::users`. Tests are excluded.
pub fn modules() -> &'static BTreeMap<String, Module> {
    static MODULES: LazyLock<BTreeMap<String, Module>> = LazyLock::new(read_modules);
    &MODULES
}

fn read_modules() -> BTreeMap<String, Module> {
    let mut sources = BTreeMap::new();
    collect_children(&Source::read("src/lib.rs"), "", &mut sources);
    for binary in ["distributor", "gateway", "users"] {
        sources.insert(format!("bin::{binary}"), Source::read(&format!("src/bin/{binary}.rs")));
    }
    let names: BTreeSet<String> = sources.keys().cloned().collect();
    let mut exports = Exports::new();
    for (name, source) in &sources {
        exports.extend(read_module(name, source, &names, &Exports::new()).exports);
    }
    sources.iter().map(|(name, source)| (name.clone(), read_module(name, source, &names, &exports))).collect()
}

/// One file, parsed once.
struct Source {
    file: PathBuf,
    text: String,
    parsed: syn::File,
}

impl Source {
    fn read(file: &str) -> Self {
        let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        Self { file: file.into(), text, parsed }
    }
}

/// Where each re-exported name (`pub use child::Name`) is defined. Such a line is not itself a dependency. The module
/// that uses the name has the dependency.
type Exports = HashMap<(String, String), String>;

/// Reads the modules that `parent` declares, and theirs.
fn collect_children(parent: &Source, parent_name: &str, found: &mut BTreeMap<String, Source>) {
    for child in declared_modules(&parent.parsed) {
        let name = if parent_name.is_empty() { child } else { format!("{parent_name}::{child}") };
        let file = format!("src/{}.rs", name.replace("::", "/"));
        if root().join(&file).is_file() {
            let source = Source::read(&file);
            collect_children(&source, &name, found);
            found.insert(name, source);
        }
    }
}

fn declared_modules(file: &syn::File) -> Vec<String> {
    let declared = file.items.iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() && !is_test(&module.attrs) => {
            Some(module.ident.to_string())
        }
        _ => None,
    });
    declared.collect()
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|one| {
        one.path().is_ident("cfg")
            && one.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

fn read_module(name: &str, source: &Source, names: &BTreeSet<String>, exports: &Exports) -> Module {
    let Source { file, text, parsed } = source;
    let mut reader = PathReader {
        module: name.split("::").map(str::to_owned).collect(),
        in_library: !name.starts_with("bin::"),
        children: declared_modules(parsed),
        names,
        exports,
        own_exports: Exports::new(),
        passes_on: false,
        aliases: HashMap::new(),
        uses: BTreeSet::new(),
        types: Vec::new(),
    };
    // Two passes, because code may use a name above the line that imports it.
    reader.visit_file(parsed);
    reader.types.clear();
    reader.visit_file(parsed);
    let PathReader { mut uses, types, own_exports, .. } = reader;
    uses.remove(name);
    let head = text.lines().take(40).collect::<Vec<_>>().join("\n");
    Module { file: file.clone(), lines: text.lines().count(), head, uses, types, exports: own_exports }
}

/// Collects the modules that one file names.
struct PathReader<'a> {
    module: Vec<String>,
    in_library: bool,
    children: Vec<String>,
    names: &'a BTreeSet<String>,
    exports: &'a Exports,
    own_exports: Exports,
    /// Whether the line that is being read is a `pub use`.
    passes_on: bool,
    /// Modules under the names by which this file imports them.
    aliases: HashMap<String, Vec<String>>,
    uses: BTreeSet<String>,
    types: Vec<TypeName>,
}

impl PathReader<'_> {
    /// The path from the root of the library; `None` for a path into another crate.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let first = path.first()?.as_str();
        let mut base = match first {
            "crate" if self.in_library => Vec::new(),
            "pilcrow" if !self.in_library => Vec::new(),
            "self" => self.module.clone(),
            "super" => {
                let levels = path.iter().take_while(|part| *part == "super").count();
                let mut base = self.module.clone();
                base.truncate(self.module.len().saturating_sub(levels));
                base.extend(path[levels..].iter().cloned());
                return Some(base);
            }
            child if self.children.iter().any(|one| one == child) => {
                let mut base = self.module.clone();
                base.push(child.to_owned());
                base
            }
            alias => self.aliases.get(alias)?.clone(),
        };
        base.extend(path[1..].iter().cloned());
        Some(base)
    }

    /// Records the module that defines the end of the path.
    fn record(&mut self, path: &[String]) {
        if let Some(module) = self.definer(path) {
            self.uses.insert(module);
        }
    }

    /// The deepest module on the path, or the module from which that one re-exports the next name.
    fn definer(&self, path: &[String]) -> Option<String> {
        let full = self.resolve(path)?;
        let depth = (1..=full.len()).rev().find(|depth| self.names.contains(&full[..*depth].join("::")))?;
        let module = full[..depth].join("::");
        let passed_on = full.get(depth).and_then(|name| self.exports.get(&(module.clone(), name.clone())));
        Some(passed_on.cloned().unwrap_or(module))
    }

    fn record_use(&mut self, tree: &UseTree, prefix: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.record_use(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.record_use(tree, prefix);
                }
            }
            UseTree::Glob(_) => self.record(prefix),
            UseTree::Name(name) => {
                self.record_import(prefix, &name.ident.to_string(), &name.ident.to_string());
            }
            UseTree::Rename(rename) => {
                self.record_import(prefix, &rename.ident.to_string(), &rename.rename.to_string());
            }
        }
    }

    fn record_import(&mut self, prefix: &[String], name: &str, alias: &str) {
        let mut path = prefix.to_vec();
        if name != "self" {
            path.push(name.to_owned());
        }
        let module = self.module.join("::");
        match self.definer(&path) {
            Some(definer) if self.passes_on && layers::is_within(&definer, &module) => {
                self.own_exports.insert((module, alias.to_owned()), definer);
            }
            definer => self.uses.extend(definer),
        }
        let alias = if name == "self" && alias == "self" {
            prefix.last().cloned().unwrap_or_default()
        } else {
            alias.to_owned()
        };
        if let Some(full) = self.resolve(&path).filter(|full| self.names.contains(&full.join("::"))) {
            self.aliases.insert(alias, full);
        }
    }

    /// Macros have no syntax tree here. Every `a::b::c` among their tokens counts as a path.
    fn record_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.record_if_path(&path);
                        path.clear();
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.record_if_path(&path);
                    path.clear();
                    self.record_tokens(group.stream());
                }
                _ => {
                    self.record_if_path(&path);
                    path.clear();
                    colons = 0;
                }
            }
        }
        self.record_if_path(&path);
    }

    fn record_if_path(&mut self, path: &[String]) {
        if path.len() > 1 {
            self.record(path);
        }
    }

    fn define(&mut self, name: &syn::Ident, visibility: &Visibility) {
        let is_public = !matches!(visibility, Visibility::Inherited);
        self.types.push(TypeName { name: name.to_string(), is_public });
    }
}

impl<'ast> Visit<'ast> for PathReader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Struct(one) => self.define(&one.ident, &one.vis),
            Item::Enum(one) => self.define(&one.ident, &one.vis),
            Item::Trait(one) => self.define(&one.ident, &one.vis),
            Item::Type(one) => self.define(&one.ident, &one.vis),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.passes_on = !matches!(item.vis, Visibility::Inherited);
        self.record_use(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.record_if_path(&parts);
        visit::visit_path(self, path);
    }

    /// `pub(in path)` is not a dependency.
    fn visit_vis_restricted(&mut self, _visibility: &'ast syn::VisRestricted) {}

    fn visit_macro(&mut self, one: &'ast Macro) {
        self.record_tokens(one.tokens.clone());
        visit::visit_macro(self, one);
    }
}
