//! The tree of modules of one library or program, and what the names in them stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::{Item, UseTree, Visibility};

use super::cfg::is_test_only;

/// All modules of one root file.
pub(crate) struct Modules {
    /// From the top of the workspace, in the order in which they were found; the root is first.
    pub(crate) files: Vec<PathBuf>,
    /// Parsed, without the items that are built for tests only, and without inline modules, which
    /// are modules of their own.
    pub(super) all: Vec<Module>,
}

/// One module.
pub(super) struct Module {
    /// Which of the files it stands in.
    pub(super) file: usize,
    parent: Option<usize>,
    pub(super) items: Vec<Item>,
    /// Whether its own declaration is public without restriction, and documented.
    public: bool,
    children: BTreeMap<String, usize>,
    /// What is defined here.
    defined: BTreeSet<String>,
    /// What is imported by its name; several where they are conditional.
    imported: BTreeMap<String, Vec<Vec<String>>>,
    /// What is imported whole.
    globs: Vec<Vec<String>>,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Module(usize),
    /// An item, by the file that defines it.
    Item(usize),
}

/// The longest chain of re-exports that is followed; a longer one is a circle of globs.
const CHAIN: usize = 16;

impl Modules {
    /// Parses the file `path`, from the top of the workspace, and all that it declares.
    pub(crate) fn read(root: &Path, path: &Path) -> Result<Self, String> {
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let mut modules = Self { files: Vec::new(), all: Vec::new() };
        modules.file(root, path.to_path_buf(), &folder, None, true)?;
        Ok(modules)
    }

    /// Enters a file whose child modules lie in `folder`; none where it is for tests only.
    fn file(
        &mut self,
        root: &Path,
        path: PathBuf,
        folder: &Path,
        parent: Option<usize>,
        public: bool,
    ) -> Result<Option<usize>, String> {
        let text = crate::scan::read(root, &path)?;
        let file = syn::parse_file(&text)
            .map_err(|e| format!("{}:{}: {e}", path.display(), e.span().start().line))?;
        if is_test_only(&file.attrs) {
            return Ok(None);
        }
        self.files.push(path);
        let number = self.files.len() - 1;
        self.module(root, number, file.items, folder, parent, public).map(Some)
    }

    fn module(
        &mut self,
        root: &Path,
        file: usize,
        items: Vec<Item>,
        folder: &Path,
        parent: Option<usize>,
        public: bool,
    ) -> Result<usize, String> {
        let mut module = Module {
            file,
            parent,
            items: Vec::new(),
            public,
            children: BTreeMap::new(),
            defined: BTreeSet::new(),
            imported: BTreeMap::new(),
            globs: Vec::new(),
        };
        let mut inner = Vec::new();
        for item in items.into_iter().filter(|item| !is_test_only(attributes(item))) {
            match item {
                Item::Mod(item) => inner.push(item),
                item => {
                    module.enter(&item);
                    module.items.push(item);
                }
            }
        }
        let this = self.all.len();
        self.all.push(module);
        for item in inner {
            let name = item.ident.to_string();
            let public = matches!(item.vis, Visibility::Public(_)) && !is_hidden(&item.attrs);
            let below = folder.join(&name);
            let child = match item.content {
                Some((_, items)) => {
                    Some(self.module(root, file, items, &below, Some(this), public)?)
                }
                None => {
                    let path = module_file(root, &self.files[file], folder, &name, &item.attrs)?;
                    let is_mod = path.file_name().is_some_and(|name| name == "mod.rs");
                    let below = match path.parent() {
                        Some(parent) if is_mod => parent.to_path_buf(),
                        _ => below,
                    };
                    self.file(root, path, &below, Some(this), public)?
                }
            };
            if let Some(child) = child {
                self.all[this].children.insert(name, child);
            }
        }
        Ok(this)
    }

    /// Where `segments`, written in `module`, lead to; none where that is another crate, or a name
    /// that no item has.
    pub(super) fn resolve(&self, module: usize, segments: &[String]) -> Option<Target> {
        self.follow(module, segments, CHAIN)
    }

    fn follow(&self, module: usize, segments: &[String], chain: usize) -> Option<Target> {
        let (first, mut rest) = segments.split_first()?;
        let mut here = match first.as_str() {
            "crate" | "$crate" => Target::Module(0),
            "self" => Target::Module(module),
            "super" => Target::Module(self.all[module].parent?),
            name => self.member(module, name, !rest.is_empty(), chain)?,
        };
        while let (Target::Module(module), Some((name, after))) = (here, rest.split_first()) {
            here = match name.as_str() {
                "self" => here,
                "super" => Target::Module(self.all[module].parent?),
                // What a macro defines under a name that is not written out stands in this file.
                name => self
                    .member(module, name, !after.is_empty(), chain)
                    .unwrap_or(Target::Item(self.all[module].file)),
            };
            rest = after;
        }
        Some(here)
    }

    /// What `name` is in a module. A module and an item may have the same name: `inside` says that
    /// the path goes on.
    fn member(&self, module: usize, name: &str, inside: bool, chain: usize) -> Option<Target> {
        let chain = chain.checked_sub(1)?;
        let here = &self.all[module];
        let child = here.children.get(name).map(|child| Target::Module(*child));
        if inside && child.is_some() {
            return child;
        }
        if here.defined.contains(name) {
            return Some(Target::Item(here.file));
        }
        let imported = || {
            let paths = here.imported.get(name)?;
            paths.iter().find_map(|path| self.follow(module, path, chain))
        };
        let by_glob = || {
            here.globs.iter().find_map(|path| match self.follow(module, path, chain)? {
                Target::Module(other) if other != module => self.member(other, name, inside, chain),
                _ => None,
            })
        };
        imported().or(child).or_else(by_glob)
    }

    /// The public names of a module: how many, re-exported globs counted one by one, hidden items
    /// not at all.
    pub(crate) fn public_names(&self, module: usize) -> usize {
        let mut names = BTreeSet::new();
        self.collect_names(module, CHAIN, &mut names);
        names.len()
    }

    fn collect_names(&self, module: usize, chain: usize, names: &mut BTreeSet<String>) {
        let Some(chain) = chain.checked_sub(1) else { return };
        let here = &self.all[module];
        let modules = here.children.iter().filter(|(_, child)| self.all[**child].public);
        names.extend(modules.map(|(name, _)| name.clone()));
        for item in &here.items {
            if is_hidden(attributes(item)) {
                continue;
            }
            match item {
                Item::Use(item) if matches!(item.vis, Visibility::Public(_)) => {
                    leaves(&item.tree, &mut Vec::new(), &mut |path, name| match name {
                        Some(name) if name != "_" => drop(names.insert(name.to_owned())),
                        Some(_) => {}
                        None => {
                            if let Some(Target::Module(other)) = self.follow(module, path, chain) {
                                self.collect_names(other, chain, names);
                            }
                        }
                    });
                }
                item => {
                    let public = matches!(visibility(item), Some(Visibility::Public(_)));
                    names.extend(name_of(item).filter(|_| public));
                }
            }
        }
    }
}

impl Module {
    fn enter(&mut self, item: &Item) {
        self.defined.extend(name_of(item));
        match item {
            Item::Use(item) => leaves(&item.tree, &mut Vec::new(), &mut |path, name| match name {
                Some(name) => {
                    self.imported.entry(name.to_owned()).or_default().push(path.to_vec());
                }
                None => self.globs.push(path.to_vec()),
            }),
            Item::Macro(item) => defined_in(item.mac.tokens.clone(), &mut self.defined),
            _ => {}
        }
    }
}

/// The file of the module that is declared as `mod name;` in a file whose modules lie in `folder`.
fn module_file(
    root: &Path,
    declared_in: &Path,
    folder: &Path,
    name: &str,
    attributes: &[syn::Attribute],
) -> Result<PathBuf, String> {
    let given = attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let beside = declared_in.parent().unwrap_or(Path::new(""));
    let candidates = match given {
        Some(path) => vec![beside.join(path)],
        None => vec![folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")],
    };
    candidates
        .into_iter()
        .find(|path| root.join(path).is_file())
        .ok_or(format!("{}: there is no file of the module {name}", declared_in.display()))
}

/// Calls `each` with every path of a `use` and the name that it gets; none for a glob, whose path
/// is that of what it takes from.
pub(super) fn leaves(
    tree: &UseTree,
    before: &mut Vec<String>,
    each: &mut dyn FnMut(&[String], Option<&str>),
) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            leaves(&path.tree, before, each);
            before.pop();
        }
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| leaves(tree, before, each));
        }
        UseTree::Glob(_) => each(before, None),
        UseTree::Name(name) if name.ident == "self" => {
            let last = before.last().cloned();
            each(before, Some(last.as_deref().unwrap_or("self")));
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            before.push(name.clone());
            each(before, Some(&name));
            before.pop();
        }
        UseTree::Rename(rename) => {
            before.push(rename.ident.to_string());
            each(before, Some(&rename.rename.to_string()));
            before.pop();
        }
    }
}

pub(crate) fn attributes(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn visibility(item: &Item) -> Option<&Visibility> {
    Some(match item {
        Item::Const(item) => &item.vis,
        Item::Enum(item) => &item.vis,
        Item::Fn(item) => &item.vis,
        Item::Static(item) => &item.vis,
        Item::Struct(item) => &item.vis,
        Item::Trait(item) => &item.vis,
        Item::Type(item) => &item.vis,
        Item::Union(item) => &item.vis,
        _ => return None,
    })
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Whether the documentation leaves it out.
fn is_hidden(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("doc")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "hidden")
    })
}

/// The names that stand behind `struct`, `static` and their like in a macro's arguments: what
/// `bitflags!` and `thread_local!` define.
fn defined_in(tokens: TokenStream, names: &mut BTreeSet<String>) {
    const KINDS: [&str; 8] = ["struct", "enum", "union", "trait", "type", "static", "const", "fn"];
    let mut after_kind = false;
    for token in tokens {
        match token {
            TokenTree::Ident(word) => {
                if after_kind {
                    names.insert(word.to_string());
                }
                after_kind = KINDS.iter().any(|kind| word == kind);
            }
            TokenTree::Group(group) => {
                after_kind = false;
                defined_in(group.stream(), names);
            }
            _ => after_kind = false,
        }
    }
}
